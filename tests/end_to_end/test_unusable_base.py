"""A base model whose weights are no numbers is at fault itself, and is said to be before anybody is taught."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from faceid_core.diffusion.base import load_base_model
from faceid_core.errors import ConfigurationError, UnusableWeights
from faceid_core.miniature_training.pipeline_folder import PIPELINE
from faceid_core.nightly import drive_inline
from faceid_core.outcomes import Outcome
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from tests.helpers.tiny_pipeline import write_tiny_pipeline

FILES = {
    "unet": ("diffusion_pytorch_model", "conv_in.bias"),
    "vae": ("diffusion_pytorch_model", "decoder.conv_in.bias"),
    "text_encoder": ("model", "embeddings.position_embedding.weight"),
}


def spoil(folder, part: str, value: float) -> str:
    """Set one number of a part's weights; returns the weight's name."""
    stem, ending = FILES[part]
    file = folder / part / f"{stem}.safetensors"
    weights = load_file(file)
    name = next(each for each in weights if each.endswith(ending))
    weights[name].view(-1)[3] = value
    save_file(weights, file, {"format": "pt"})
    return name


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("part", FILES)
def test_the_part_and_the_weight_are_named(tiny, tmp_path, part, value):
    folder = shutil.copytree(tiny, tmp_path / "base")
    spoil(folder, part, value)
    with pytest.raises(UnusableWeights) as caught:
        load_base_model(folder)
    assert FILES[part][1] in str(caught.value) and f"in {part} are NaN or infinite" in str(caught.value)
    assert "base_model.precision" not in str(caught.value)


def test_numbers_too_large_for_half_precision_are_told_as_such(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "base")
    spoil(folder, "unet", 1e9)
    load_base_model(folder)
    with pytest.raises(
        UnusableWeights, match=r"float16 is too small for them: set base_model\.precision to float32"
    ):
        load_base_model(folder, precision="float16")


def test_a_device_that_is_not_there_is_a_setting_to_change(tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ConfigurationError, match=r"base_model\.device is cuda, and this machine has no CUDA device"
    ):
        load_base_model(tiny, device="cuda")


def test_a_night_blames_the_model_and_loads_it_once(small, people, tmp_path, monkeypatch):
    folder = shutil.copytree(PIPELINE, tmp_path / "base")
    spoil(folder, "unet", float("nan"))
    loaded = []

    def counted(*arguments, **options):
        loaded.append(arguments)
        return load_base_model(*arguments, **options)

    monkeypatch.setattr("faceid_core.diffusion.base.load_base_model", counted)
    config = small(str(tmp_path / "store"), people, base_model={"source": str(folder)},
                   personalize={"slots": 1, "method": {"known_names": "miniature", "steps": 3}})  # fmt: skip
    run = open_run(config, LogReporter())
    ended = drive_inline(run)
    for outcome_report in run.outcome_reports.values():
        assert (outcome_report.outcome, outcome_report.stage, outcome_report.reason) == (
            Outcome.FAILED, "personalize", "UnusableWeights",
        )  # fmt: skip
        assert "are NaN or infinite, so no identity can be learned or drawn" in outcome_report.message
        assert outcome_report.attempts == 1
    assert ended.exit_status == 2 and len(loaded) == 1
    assert "are NaN or infinite" in run.failures_common["class-person"]
