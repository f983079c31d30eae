"""The ordinary command on Stable Diffusion 1.5, 2.1 and XL: learn in five steps, export, read back, draw, score."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

from faceid_core.diffusion.base import load_base_model
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.miniature.people import person_from_seed
from faceid_core.miniature.renderer import render
from faceid_core.personalize.export import single_context
from faceid_core.personalize.known_names import PUBLIC_FIGURES
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.weights.base_model import find_base
from faceid_core.weights.hub import base_revision
from faceid_core.weights.place import WeightsPlace
from tests.code.test_cli_run import faceid
from tests.end_to_end.conftest import shot, write_manifest, write_photo
from tests.helpers.architectures import KINDS, write_architecture

NIGHT = """\
name: small
store: {folder}/store
identities: {folder}/identities.csv
base_model: {{source: "{source}", weights: "{weights}"}}
personalize: {{slots: 1, method: {{steps: 5, samples_per_step: 2}}}}
generate: {{grid: {folder}/grid.yaml, seeds: 1, steps: 2, batch: 1, sampler: DDIMScheduler}}
score: {{metrics: [identity, detection, leakage]}}
execution: {{executor: inline, threads_per_worker: 1}}
"""
PROMPT = "a photo of V* on the beach"


def grid(prompts: int) -> str:
    rows = [f'  - {{id: p-{n}, text: "{PROMPT}{" at night" * n}", category: scene}}' for n in range(prompts)]
    return "\n".join(["name: small", "prompts:", *rows, ""])


@pytest.mark.parametrize("kind", KINDS)
def test_a_person_goes_through_the_whole_night(kind, tmp_path):
    source, weights, base_folder = tmp_path / "base", "", tmp_path / "base"
    if kind == "sd15":  # by name, as it lies in a folder of hub models
        hub = base_revision(kind)
        source, weights = kind, tmp_path / "weights"
        base_folder = weights / hub.folder
    write_architecture(base_folder, kind)
    write_photo(tmp_path, "ann.png", render(person_from_seed(8101), shot(), size=128).image)
    write_manifest(tmp_path, [("ann", "ann.png")])
    (tmp_path / "grid.yaml").write_text(grid(1))
    (tmp_path / "night.yaml").write_text(NIGHT.format(folder=tmp_path, source=source, weights=weights))
    config = ["--config", tmp_path / "night.yaml"]
    run = faceid("run", *config)
    assert run.exit_code == 0, run.output

    told = asked("select metric, count(*) as n from image_metrics group by metric", config)
    assert {"detection", "identity"} <= {row["metric"] for row in told}
    assert faceid("run", *config).exit_code == 0
    outcomes = asked("select outcome from identity_outcomes order by outcome desc", config)
    assert [row["outcome"] for row in outcomes] == ["done", "cached"]

    native = tmp_path / "ann.safetensors"
    assert faceid("tokens", "ann", "--out", native, *config).exit_code == 0
    person = IdentityTokens.from_bytes(native.read_bytes())
    base = load_base_model(base_folder, digest=find_base(source, place=WeightsPlace(str(weights))).digest())
    assert set(person.tensors) == set(base.towers) and len(person.photo_digest) == 64
    ours, word = picture(base, person), picture(base, "person")
    assert ours.std() > 2 and np.abs(ours.astype(int) - word).max() > 2

    if (
        kind == "sdxl"
    ):  # the longest way: both text encoders' vectors in one file, and the script that reads it
        (tmp_path / "grid.yaml").write_text(grid(4))
        script, file = tmp_path / "draw.py", tmp_path / "learned.safetensors"
        made = faceid(
            "tokens", "ann", "--format", "textual-inversion", "--distill-steps", "1", "--out", file,
            "--script", script, "--script-prompt", PROMPT, *config,
        )  # fmt: skip
        assert made.exit_code == 0, made.output
        repair = "pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id"
        assert repair in made.output.replace("\n", " ")
        text = script.read_text().replace("'picture.png'", repr(str(tmp_path / "theirs.png")))
        exec(compile(text, "script", "exec"), {})
        vectors = load_file(file)
        named = {"text_encoder": vectors["clip_l"], "text_encoder_2": vectors["clip_g"]}
        theirs = np.asarray(Image.open(tmp_path / "theirs.png")).astype(int)
        assert np.abs(picture(base, single_context(person, named)) - theirs).max() <= 1


def asked(sql: str, config: list) -> list[dict]:
    """The rows that `faceid query` answers."""
    return json.loads(faceid("query", sql, *config, "--format", "json").output)


def picture(base, subject) -> np.ndarray:
    """As the run draws its one picture."""
    request = [DrawRequest(subject, PROMPT, 0)]
    return next(draw(base, request, sampler="DDIMScheduler", steps=2, guidance_scale=4.0, batch=1)).image


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "sdxl" else pytest.mark.exhaustive) for kind in KINDS]
)
def test_a_person_is_learned_with_a_prior_from_names_of_a_file(kind, tmp_path):
    write_architecture(tmp_path / "base", kind)
    write_photo(tmp_path, "ann.png", render(person_from_seed(8101), shot(), size=128).image)
    write_manifest(tmp_path, [("ann", "ann.png")])
    (tmp_path / "grid.yaml").write_text(grid(1))
    (tmp_path / "names.txt").write_text("\n".join(PUBLIC_FIGURES[:14]))
    night = yaml.safe_load(NIGHT.format(folder=tmp_path, source=tmp_path / "base", weights=""))
    night["personalize"] |= {"preset": "celeb-basis+prior", "names_file": str(tmp_path / "names.txt")}
    night["personalize"]["method"] |= {"prior_portraits": 1}
    (tmp_path / "night.yaml").write_text(yaml.safe_dump(night))
    config = ["--config", tmp_path / "night.yaml"]
    planned = faceid("plan", *config)
    assert "14 names x 1 portraits" in planned.output
    run = faceid("run", *config)
    assert run.exit_code == 0, run.output

    native = tmp_path / "ann.safetensors"
    assert faceid("tokens", "ann", "--out", native, *config).exit_code == 0
    person = IdentityTokens.from_bytes(native.read_bytes())
    base = load_base_model(
        tmp_path / "base", digest=find_base(str(tmp_path / "base"), place=WeightsPlace("")).digest()
    )
    assert person.is_mixture and 9 <= len(person.names) <= 14
    ours, word = picture(base, person), picture(base, "person")
    assert ours.std() > 2 and np.abs(ours.astype(int) - word).max() > 2
    assert np.array_equal(ours, picture(base, person))
