"""The score stages of photographs: from a plan's keys to rows, with CLIP and DeepFace folders of the real layout."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from faceid_core import photos
from faceid_core.config import NightlyConfig
from faceid_core.evaluate.cells import DrawSettings, grid_cells
from faceid_core.evaluate.grid import Prompt, PromptGrid
from faceid_core.evaluate.metrics import read_scores
from faceid_core.evaluate.shards import ShardRow, write_shard
from faceid_core.stages.models import Models, WorkerSettings
from faceid_core.stages.plan import Plan
from faceid_core.weights.catalog import CLIPS, RECOGNIZERS, SAFETY_CHECKERS
from faceid_core.weights.lock import LOCK, DamagedWeights, write_lock
from faceid_core.weights.roles import ROLES
from tests.helpers.stage_runs import run_stage, score_calls_of
from tests.helpers.tiny_clip import write_tiny_clip
from tests.helpers.tiny_onnx import write_mean_network
from tests.helpers.tiny_safety_checker import write_tiny_safety_checker

SAFETY = SAFETY_CHECKERS["StableDiffusion"].folder
METRICS_ASKED = (
    "identity", "identity_second", "detection", "image_text", "image_text_second", "diversity", "leakage", "attributes",
    "flagged",
)  # fmt: skip
PROMPTS = [
    ["red-hat", "a photo of V* wearing a hat", "clothing", {}],
    ["old", "a photo of an old V*", "attribute", {}],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of everything that the photographs' set can ask, small and random."""
    folder = tmp_path_factory.mktemp("weights")
    write_tiny_clip(folder / CLIPS["ViT-B/32"].folder)
    other = write_tiny_clip(folder / CLIPS["ViT-L/14"].folder, patch=14, seed=1)
    checker = write_tiny_safety_checker(folder / SAFETY, threshold=-1)
    # Not the published files, so only a lock lets them pass.
    write_lock(folder / LOCK, {made.name: made for made in (other, checker)})
    for seed, name in enumerate(("ArcFace", "GhostFaceNet")):
        write_mean_network(folder / RECOGNIZERS[name].files[0].name, axes=(1, 2), outputs=512, seed=seed)
    write_mean_network(folder / "age_model_weights.onnx", axes=(1, 2), outputs=101, softmax=True)
    write_mean_network(folder / "gender_model_weights.onnx", axes=(1, 2), outputs=2, softmax=True)
    return folder


def configured(folder, **changes) -> NightlyConfig:
    score = {
        "scorers": "photographs", "recognizers": ["ArcFace", "GhostFaceNet"], "clips": ["ViT-B/32", "ViT-L/14"],
        "metrics": METRICS_ASKED,
    }  # fmt: skip
    return NightlyConfig(faces={"backend": "deepface"}, score={**score, **changes}, weights=str(folder))


def values(models, metric, images, reference=None):
    settings = DrawSettings(base="b", sampler="x", steps=1, guidance_scale=1.0, precision="float32", version=1)
    prompts = tuple(Prompt(*row) for row in PROMPTS)
    cells = list(grid_cells(PromptGrid("test", prompts, ""), range(len(images) // 2), settings, subject="p"))
    heat = np.ones((8, 8), np.float16)
    shard = write_shard([ShardRow.of(cell, image, heat) for cell, image in zip(cells, images, strict=True)])
    blobs = {"pictures": shard} | (
        {"reference": photos.encode_png(reference)} if reference is not None else {}
    )
    parameters = {"prompts": PROMPTS, "class_word": "person", "scorers": "photographs"}
    found = run_stage(f"score-{metric}", parameters, {"p": blobs}, models)["p"]["scores.parquet"]
    rows: dict[str, list] = {}
    for row in read_scores(found):
        rows.setdefault(row.metric, []).append(row.value)
    return rows


def test_every_metric_of_photographs_is_measured(folder):
    config = configured(folder)
    models = Models(WorkerSettings.from_config(config, Plan.from_config(config).weights, threads=1))
    woman = data.astronaut()
    tinted, cup = (woman * (1.0, 0.7, 0.4)).astype(np.uint8), cv2.resize(data.coffee(), (512, 512))
    images = [woman, tinted, woman, cup]  # two seeds of each prompt
    identity = values(models, "identity", images, woman)
    assert identity["identity"][0] == pytest.approx(1, abs=1e-5) and identity["identity"][3] is None
    assert identity["identity:accepted"] == [1, 1, 1]
    second = values(models, "identity_second", images, woman)
    assert second["identity_second"][0] == pytest.approx(1, abs=1e-5)
    assert second["identity_second"][1] != identity["identity"][1]
    assert values(models, "detection", images)["detection"] == [1, 1, 1, 0]
    texts = values(models, "image_text", images)["image_text"]
    others = values(models, "image_text_second", images)["image_text_second"]
    assert all(-1 <= value <= 1 for value in texts + others) and texts != others
    assert texts[0] != texts[2]  # one picture, two prompts
    same = values(models, "diversity", [woman, woman, woman, cup])["diversity"]
    assert (
        same[:2] == pytest.approx([0, 0], abs=1e-5) and same[2] == pytest.approx(same[3]) and same[2] > 1e-4
    )
    alone = values(models, "diversity", [woman, cup])["diversity"]
    assert alone == [None, None]
    leaked = values(models, "leakage", images, woman)
    assert leaked["leakage:background"][0] == 1 and leaked["leakage:background"][3] is None
    assert set(leaked["leakage:clothes"]) == {None}
    attributes = values(models, "attributes", images, woman)
    assert attributes["attributes"][:3] == [1, 1, 1] and attributes["attributes"][3] is None
    assert values(models, "flagged", images)["flagged"] == [1, 1, 1, 1]
    assert len(attributes["attributes:age"]) == 2 and len(attributes["attributes:gender"]) == 3


def test_keys_hold_the_models_that_a_metric_asks_and_no_others(folder):
    usual = score_calls_of(Plan.from_config(configured(folder)))
    assert {call.removeprefix("score-") for call in usual} == set(METRICS_ASKED)
    other = score_calls_of(Plan.from_config(configured(folder, clips=["ViT-L/14", "ViT-B/32"])))
    changed = {name for name in usual if usual[name].key != other[name].key}
    assert changed == {"score-image_text", "score-image_text_second", "score-diversity"}
    assert set(usual["score-leakage"].weights) == {"detector", "parser"}
    plan = Plan.from_config(configured(folder))
    assert plan.scorer_titles["second_recognizer"] == "deepface-GhostFaceNet@1"
    assert plan.scorer_titles["image_text"] == "clip-ViT-B/32@1"
    for metric in METRICS_ASKED:
        assert len(usual[f"score-{metric}"].weights) >= len(ROLES[metric]) - (metric == "leakage")


def test_the_safety_checkers_verdict_is_that_of_the_pipeline(folder, tmp_path):
    """As StableDiffusionPipeline asks it; the picture is judged and kept, which the pipeline paints black."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    images = [data.astronaut(), cv2.resize(data.coffee(), (512, 512))] * 10
    loaded = StableDiffusionSafetyChecker.from_pretrained(folder / SAFETY)
    pixels = CLIPImageProcessor.from_pretrained(folder / SAFETY)(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        seen = loaded.visual_projection(loaded.vision_model(pixels)[1])
    concepts = loaded.concept_embeds.detach()
    cosines = torch.nn.functional.cosine_similarity(seen[:, None], concepts[None], dim=-1).amax(1)
    assert abs(cosines[0] - cosines[1]) > 0.01
    between = write_tiny_safety_checker(tmp_path / SAFETY, threshold=float(cosines[:2].mean()))
    write_lock(tmp_path / LOCK, {between.name: between})
    config = configured(tmp_path, metrics=["flagged"])
    models = Models(WorkerSettings.from_config(config, Plan.from_config(config).weights, threads=1))
    expected = [float(cosines[0] > cosines[1]), float(cosines[0] < cosines[1])] * 10
    assert values(models, "flagged", images)["flagged"] == expected
    assert images[0].any() and images[1].any()


def test_only_what_the_metrics_ask_has_to_be_there(tmp_path):
    config = configured(tmp_path, metrics=["detection", "leakage"])
    models = Models(WorkerSettings.from_config(config, Plan.from_config(config).weights, threads=1))
    assert models.scorers.recognizer is None and models.scorers.image_text is None
    assert values(models, "detection", [data.astronaut(), data.astronaut()])["detection"] == [1, 1]


def test_a_worker_refuses_weights_that_changed_since_the_plan(folder, tmp_path):
    for name in ("arcface_weights.onnx",):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = configured(tmp_path, metrics=["identity"])
    settings = WorkerSettings.from_config(config, Plan.from_config(config).weights, threads=1)
    write_mean_network(tmp_path / "arcface_weights.onnx", axes=(1, 2), outputs=512, seed=9)
    with pytest.raises(DamagedWeights, match="recognizer changed since the run was planned"):
        _ = Models(settings).scorers
