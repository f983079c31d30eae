"""For photographs the detection metric asks the photos' detector, else the scorers' own; its key says which."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from skimage import data

from faceid_core.config import NightlyConfig
from faceid_core.evaluate.cells import DrawSettings, grid_cells
from faceid_core.evaluate.grid import Prompt, PromptGrid
from faceid_core.evaluate.metrics import read_scores
from faceid_core.evaluate.shards import ShardRow, write_shard
from faceid_core.miniature.people import SAMPLE_SEEDS, person_from_seed
from faceid_core.miniature.renderer import Shot, render
from faceid_core.publish.rows import scored_by
from faceid_core.stages.plan import Plan
from faceid_core.store.keys import StageCall
from faceid_core.weights.lock import shipped_lock
from tests.helpers.face_models import detector_digest
from tests.helpers.stage_runs import models_for_tests, run_stage, score_calls_of


def shard(*images) -> bytes:
    settings = DrawSettings(base="b", sampler="x", steps=1, guidance_scale=1.0, precision="float32", version=1)
    grid = PromptGrid("test", (Prompt("free", "a photo of V*", "scene", {}),), "")
    cells = grid_cells(grid, range(len(images)), settings, subject="person")
    heat = np.ones((8, 8), np.float16)
    return write_shard([ShardRow.of(cell, image, heat) for cell, image in zip(cells, images, strict=True)])


def values(metric, models, *images):
    parameters = {
        "prompts": [["free", "a photo of V*", "scene", {}]],
        "class_word": "person",
        "scorers": "miniature",
    }
    made = run_stage(f"score-{metric}", parameters, {"a": {"pictures": shard(*images)}}, models)["a"]
    return [row.value for row in read_scores(made["scores.parquet"])]


def test_photographs_are_searched_by_the_detector_of_the_configured_backend():
    models = models_for_tests(faces="deepface")
    person, gray = data.astronaut(), np.full((512, 512, 3), 127, np.uint8)
    assert values("detection", models, person, gray) == [1, 0]
    # Asked before and after: the metrics of the miniature's scorers keep their own detector and its faces.
    drawn = render(person_from_seed(SAMPLE_SEEDS[0]), Shot()).image
    outside = values("attention", models_for_tests(), drawn)
    assert values("attention", models, drawn) == outside and outside[0] is not None
    searched = [models.detector.detect([image]) for image in (person, drawn)]
    assert values("detection", models, person, drawn) == [float(bool(found[0])) for found in searched]
    assert values("attention", models, drawn) == outside


def test_the_miniatures_detection_shares_its_detector_with_the_other_metrics():
    models = models_for_tests()
    drawn = render(person_from_seed(SAMPLE_SEEDS[0]), Shot()).image
    assert values("detection", models, drawn, np.full((64, 64, 3), 127, np.uint8)) == [1, 0]
    assert "_faces" not in vars(models) and len(models.kept_pictures) == 1


@cache
def score_calls(backend: str) -> dict[str, StageCall]:
    return score_calls_of(Plan.from_config(NightlyConfig(faces={"backend": backend})))


def test_the_key_changes_with_the_backend_for_detection_only():
    ours, theirs = score_calls("miniature"), score_calls("deepface")
    assert {stage for stage in ours if ours[stage].key != theirs[stage].key} == {"score-detection"}
    assert theirs["score-detection"].weights == {"detector": detector_digest("dlib")}
    assert ours["score-detection"].weights == {"detector": shipped_lock().digest("reporting_detector")}


@pytest.mark.parametrize("backend", ["miniature", "deepface"])
def test_identity_and_attention_are_keyed_by_the_scorers_own_detector(backend):
    calls = score_calls(backend)
    for stage in ("score-identity", "score-attention"):
        assert calls[stage].weights["detector"] == shipped_lock().digest("reporting_detector")


def told_by_the_table(backend: str, metric: str) -> tuple[str, list[str]]:
    config = NightlyConfig(faces={"backend": backend})
    run = SimpleNamespace(config=config, plan=Plan.from_config(config))
    preimage = score_calls(backend)[f"score-{metric}"].preimage()
    return scored_by(run, metric, SimpleNamespace(content={"preimage": preimage}))


def test_the_table_names_the_detector_that_looked():
    ours, theirs = (told_by_the_table(backend, "detection") for backend in ("miniature", "deepface"))
    assert ours == ("miniature:detector", [shipped_lock().digest("reporting_detector")])
    assert theirs == ("deepface:detector", [detector_digest("dlib")])
    assert told_by_the_table("miniature", "identity") == told_by_the_table("deepface", "identity")
