"""The ordinary command on Stable Diffusion 1.5, 2.1 and XL: learn in five steps, export, read back, draw, score."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from faceid_core import photos
from faceid_core.diffusion import load_base_model
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.miniature.people import person_from_seed
from faceid_core.miniature.renderer import render
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.store import digest_folder
from tests.end_to_end.conftest import shot, write_manifest, write_photo
from tests.end_to_end.test_inline_folder import faceid
from tests.helpers.architectures import KINDS, write_architecture

NIGHT = """\
name: small
store: {folder}/store
identities: {folder}/identities.csv
base_model: {{source: {folder}/base}}
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
    base_folder = write_architecture(tmp_path / "base", kind)
    write_photo(tmp_path, "ann.png", render(person_from_seed(8101), shot(), size=128).image)
    write_manifest(tmp_path, [("ann", "ann.png")])
    (tmp_path / "grid.yaml").write_text(grid(1))
    (tmp_path / "night.yaml").write_text(NIGHT.format(folder=tmp_path))
    config = ["--config", tmp_path / "night.yaml"]
    run = faceid("run", *config)
    assert run.exit_code == 0, run.output

    asked = "select image_metrics.metric, image_metrics.value, images.prompt from image_metrics join images using (cell)"
    told = faceid("query", "select count(*) as n from image_metrics", *config, "--format", "json").output
    assert json.loads(told)[0]["n"] > 0, asked
    assert faceid("run", *config).exit_code == 0
    again = json.loads(
        faceid("query", "select outcome from identity_outcomes", *config, "--format", "json").output
    )
    assert [row["outcome"] for row in again] == ["done", "cached"]

    native = tmp_path / "ann.safetensors"
    assert faceid("tokens", "ann", "--out", native, *config).exit_code == 0
    person = IdentityTokens.from_bytes(native.read_bytes())
    base = load_base_model(base_folder, digest=digest_folder(base_folder))
    assert set(person.tensors) == set(base.towers) and len(person.photo_digest) == 64
    drawn = tmp_path / "drawn.png"
    assert (
        faceid(
            "draw", "--identity", "ann", "--prompt", PROMPT, "--seeds", "1", "--out", drawn, *config
        ).exit_code
        == 0
    )
    request = [DrawRequest(person, PROMPT, 0)]
    ours = next(draw(base, request, sampler="DDIMScheduler", steps=2, guidance=4.0, batch=1)).image
    assert ours.std() > 2

    if (
        kind == "sdxl"
    ):  # the longest way: both text encoders' vectors in one file, and the script that reads it
        (tmp_path / "grid.yaml").write_text(grid(4))
        script, file = tmp_path / "draw.py", tmp_path / "learned.safetensors"
        made = faceid(
            "tokens", "ann", "--format", "textual-inversion", "--distil-steps", "1", "--out", file,
            "--script", script, "--script-prompt", PROMPT, *config,
        )  # fmt: skip
        assert made.exit_code == 0, made.output
        text = script.read_text().replace("'picture.png'", repr(str(tmp_path / "theirs.png")))
        exec(compile(text, "script", "exec"), {})
        theirs = np.asarray(Image.open(tmp_path / "theirs.png"))
        assert theirs.shape == ours.shape and theirs.std() > 2
        assert (
            photos.decode((tmp_path / "theirs.png").read_bytes(), max_bytes=10**6, max_pixels=10**5).shape
            == ours.shape
        )
