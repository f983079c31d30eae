"""Stage generate: subjects share passes, and pictures do not depend on who else is drawn."""

import numpy as np
import pytest
import torch

from faceid_core.errors import FaceidError
from faceid_core.evaluate import generation
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.stages.executing.generate import ConstantPictures, execute
from faceid_core.stages.planning.generate import SHARD, SPEC
from faceid_core.stages.work import Work
from faceid_core.store.keys import StageCall, sha256_hex
from tests.helpers.stage_runs import models_for_tests
from tests.helpers.tiny_pipeline import write_tiny_pipeline

DRAWING = {
    "prompts": [["one", "a photo of V* on the beach", "scene"], ["two", "the face of V*", "plain"]],
    "seeds": 3,
    "sampler": "DDIMScheduler",
    "steps": 2,
    "guidance_scale": 3.0,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return models_for_tests(base=write_tiny_pipeline(tmp_path_factory.mktemp("tiny")))


def tokens(models, number: int, base_digest: str | None = None) -> dict:
    vectors = np.random.default_rng(number).normal(size=(5, 2, 1, 32)).astype(np.float32)
    made = IdentityTokens(
        tensors={"text_encoder": torch.from_numpy(vectors)},
        base_digest=base_digest or models.settings.weights["base"],
        class_word="person",
        template="{}",
        boundaries=(200, 400, 600, 800),
        training_timesteps=1000,
        prediction_type="v_prediction",
        photo_digest="0" * 64,
        method={},
    )
    return {"tokens": made.to_bytes()}


def drawn(models, subjects: dict, progress=None) -> dict:
    """Subject -> shard bytes or exception; a subject is input blobs, or a text."""
    inputs = [{} if isinstance(each, str) else each for each in subjects.values()]
    works = [
        Work(
            name,
            "common",
            StageCall(
                stage="generate",
                version=SPEC.version,
                parameters=DRAWING | {"text": each if isinstance(each, str) else None},
                precision="float32",
                inputs={key: sha256_hex(data) for key, data in blobs.items()},
                weights=models.settings.weights,
            ),
            {},
            "generate",
        )
        for (name, each), blobs in zip(subjects.items(), inputs, strict=True)
    ]
    note = progress.append if progress is not None else lambda call: None
    return {
        works[index].subject: outputs if isinstance(outputs, Exception) else outputs[SHARD].data
        for index, outputs, _ in execute(works, inputs, models, lambda *call: note(call))
    }


def test_a_subject_is_drawn_the_same_alone_and_in_company_and_in_fewer_passes(models, monkeypatch):
    passes = []
    denoise = generation.denoise

    def counted(*args, **kwargs):
        passes.append(1)
        return denoise(*args, **kwargs)

    monkeypatch.setattr(generation, "denoise", counted)
    subjects = {"ann": tokens(models, 1), "word": "person", "bob": tokens(models, 2)}
    together = drawn(models, subjects)
    # 3 subjects x 2 prompts x 3 seeds in passes of 4 pictures
    assert len(passes) == 5
    for name, each in subjects.items():
        assert drawn(models, {name: each}) == {name: together[name]}
    assert len(passes) == 5 + 3 * 2


def test_progress_is_told_of_each_subject_by_its_own_pictures(models):
    progress = []
    drawn(models, {"ann": tokens(models, 1), "word": "person"}, progress)
    told = [each for each in dict.fromkeys(progress) if each[1]]
    assert told == [(name, count, 6) for name in ("ann", "word") for count in range(1, 7)]
    # 12 pictures in passes of 4: also between two steps of a pass, which takes minutes where it is slow.
    assert len(progress) == 12 + 3 * DRAWING["steps"]


def test_tokens_of_another_model_are_their_owners_trouble_only(models):
    found = drawn(models, {"ann": tokens(models, 1, "e" * 64), "bad": {"tokens": b"none"}, "word": "person"})
    assert isinstance(found["ann"], FaceidError) and isinstance(found["bad"], FaceidError)
    assert found["word"] == drawn(models, {"word": "person"})["word"]


def test_pictures_of_one_color_are_told_and_not_kept(models, monkeypatch):
    decode = type(models.base).decode_latents

    def black_first(self, latents):
        images = decode(self, latents)
        if not spoilt:
            images[0] = 0
            spoilt.append(1)
        return images

    spoilt: list[int] = []
    monkeypatch.setattr(type(models.base), "decode_latents", black_first)
    found = drawn(models, {"ann": tokens(models, 1), "bob": tokens(models, 2)})
    assert isinstance(found["ann"], ConstantPictures)
    assert "1 of 6 pictures are one color only" in str(found["ann"]) and "precision" in str(found["ann"])
    assert isinstance(found["bob"], bytes)
