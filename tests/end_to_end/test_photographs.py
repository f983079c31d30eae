"""A run on a photograph with the photographs' scorers: their figures, models and digests reach the tables."""

from __future__ import annotations

import shutil

import pytest
from skimage import data

from faceid_core import photos
from faceid_core.config import NightlyConfig
from faceid_core.nightly import drive_inline
from faceid_core.outcomes import EXIT_COMPLETE
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.tables import Tables
from faceid_core.weights.catalog import CLIPS, RECOGNIZERS
from tests.helpers.tiny_clip import write_tiny_clip
from tests.helpers.tiny_onnx import write_mean_network

GRID = """\
name: two
prompts:
  - {id: beach, text: "a photo of V* on the beach", category: scene}
  - {id: face, text: "a photo of the face of V*", category: attribute}
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "photo.png").write_bytes(photos.encode_png(data.astronaut()))
    (tmp_path / "people.csv").write_text("identity_id,photo,class_word\nann,photo.png,woman\n")
    (tmp_path / "grid.yaml").write_text(GRID)
    write_tiny_clip(tmp_path / "weights" / CLIPS["ViT-B/32"].folder)
    write_mean_network(tmp_path / "weights" / RECOGNIZERS["ArcFace"].files[0].name, axes=(1, 2), outputs=512)
    return NightlyConfig(
        identities=str(tmp_path / "people.csv"),
        store=str(tmp_path / "store"),
        weights=str(tmp_path / "weights"),
        faces={"backend": "deepface"},
        personalize={"preset": "semantic-fidelity", "slots": 1, "method": {"steps": 2, "warmup_steps": 0}},
        generate={"grid": str(tmp_path / "grid.yaml"), "seeds": 2, "steps": 2, "batch": 4},
        score={
            "scorers": "photographs", "recognizers": ["ArcFace"],
            "metrics": ["identity", "detection", "image_text", "diversity", "leakage"], "named_people": 0,
        },
        execution={"executor": "inline"},
    )  # fmt: skip


def test_models_and_figures_reach_the_tables(config):
    run = open_run(config, LogReporter())
    finished = drive_inline(run)
    assert finished.exit_status == EXIT_COMPLETE
    tables = Tables(run.store)
    rows = tables.query("select distinct metric, model, model_digest from image_metrics").to_pylist()
    models = {row["metric"]: row["model"] for row in rows}
    assert models["identity"] == "photographs:deepface-dlib@3+deepface-ArcFace@1"
    assert models["image_text"] == models["diversity"] == "photographs:clip-ViT-B/32@1"
    assert models["leakage:background"] == "photographs:deepface-dlib@3+grabcut"
    assert all(len(row["model_digest"]) == 64 for row in rows)
    figures = tables.query("select * from identity_summary where subject_kind = 'person'").to_pylist()[0]
    assert figures["image_text"] is not None and figures["diversity"] > 0 and figures["detection"] is not None
    # A second run on another place of the same weights computes nothing.
    moved = config.weights + "-moved"
    shutil.copytree(config.weights, moved)
    elsewhere = config.model_copy(update={"weights": moved})
    again = open_run(elsewhere, LogReporter())
    assert drive_inline(again).exit_status == EXIT_COMPLETE and sum(again.computed.values()) == 0
