"""Each stage gives, within tolerance, what it gave when its version was last raised.

New pins of a library and changes recorded as "no effect" must pass here. None of it depends on the shipped pipeline:
training and drawing run on a tiny one with random weights from a fixed seed.

Renew the expected numbers, after raising a stage's version or training a shipped scorer again, with
`python -m tests.model.test_golden_outputs`, and look at the difference before committing it.
"""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from faceid_core import photos
from faceid_core.config import NightlyConfig
from faceid_core.config.method import Method
from faceid_core.evaluate.cells import DrawSettings, grid_cells
from faceid_core.evaluate.grid import Prompt, PromptGrid
from faceid_core.evaluate.metrics import read_scores
from faceid_core.evaluate.shards import ShardRow, read_shard, write_shard
from faceid_core.geometry.classes import CLASSES
from faceid_core.miniature.people import SAMPLE_SEEDS, person_from_seed
from faceid_core.miniature.renderer import Shot, render, render_scene
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.personalize.vocabulary import vocabulary_of
from tests.helpers.stage_runs import models_for_tests, run_stage
from tests.helpers.tiny_people import tiny_photo
from tests.helpers.tiny_pipeline import write_tiny_pipeline

GOLDEN = Path(__file__).with_name("golden.json")
DETECT = {
    "crop_pixels": 64,
    "min_face_pixels": 40.0,
    "min_sharpness": 0.08,
    "max_bytes": 10**6,
    "max_pixels": 10**6,
    "face_box": None,
}
PROMPTS = [
    ["beach", "a photo of V* on the beach", "scene", {"scene": ["beach"]}],
    [
        "hat",
        "a photo of V* wearing a hat, holding a book",
        "mixed",
        {"attribute": ["hat"], "action": ["book"]},
    ],
]
DRAWING = {
    "prompts": [
        ["beach", "a photo of V* on the beach", "scene"],
        ["hat", "V* wearing a red hat", "attribute"],
    ],
    "seeds": 2,
    "sampler": "DDIMScheduler",
    "steps": 4,
    "guidance_scale": 3.0,
}


def face_numbers() -> dict:
    """Detect, parse and mask of a rendered person."""
    models = models_for_tests()
    photo = photos.encode_png(render(person_from_seed(SAMPLE_SEEDS[0]), Shot(), size=128).image)
    found = run_stage("detect", DETECT, {"a": {"photo": photo}}, models)["a"]
    crop = {"crop": found["crop.png"], "detection": found["detection.json"]}
    labels = run_stage("parse", {}, {"a": crop}, models)["a"]["labels.png"]
    made = run_stage(
        "mask", {"region": "face"}, {"a": {"labels": labels, "valid": found["valid.png"]}}, models
    )["a"]
    facts = json.loads(found["detection.json"])
    mask = photos.decode_png(made["mask.png"]) > 0
    counts = np.bincount(photos.decode_png(labels).ravel(), minlength=len(CLASSES))
    return {
        "eyes": facts["eyes"],
        "box": facts["box"],
        "sharpness": facts["quality"]["sharpness"],
        "crop_mean": photos.decode_png(found["crop.png"]).mean(axis=(0, 1)).round(3).tolist(),
        "class_pixels": dict(zip(CLASSES, counts.tolist(), strict=True)),
        "mask_area_share": json.loads(made["verdict.json"])["area_share"],
        "mask_bits": base64.b64encode(np.packbits(mask)).decode(),
    }


def training_outputs(folder: Path) -> dict[str, dict[str, bytes]]:
    """Personalize two people of noise on the tiny pipeline, together."""
    people = {
        photo.name: {
            "photo": photo.name.encode(),
            "crop": photos.encode_png(photo.image),
            "mask": photos.encode_png((photo.mask * 255).astype(np.uint8)),
            "valid": photos.encode_png(photo.valid.astype(np.uint8) * 255),
        }
        for photo in (tiny_photo(1), tiny_photo(2))
    }
    models = models_for_tests(base=folder)
    spread = vocabulary_of(models.base.towers["text_encoder"]).spread
    method = Method(steps=6, samples_per_step=5, learning_rate=0.02 / spread).model_dump(mode="json")
    parameters = {"method": method, "seed": 0, "class_word": "person"}
    return run_stage("personalize", parameters, people, models)


def token_numbers(folder: Path) -> dict:
    """Vectors, losses and attention of the first of them."""
    made = training_outputs(folder)["person-1"]
    tokens = IdentityTokens.from_bytes(made["tokens.safetensors"]).tensors["text_encoder"].numpy()
    last = json.loads(made["curve.json"])[-1]
    maps = load(made["attention.safetensors"])
    return {
        "first_numbers": tokens[:, :, 0, :4].astype(float).round(5).tolist(),  # [stages, 2, 4]
        "lengths": np.linalg.norm(tokens[:, :, 0], axis=-1).astype(float).round(5).tolist(),  # [stages, 2]
        "losses": [last["loss_diffusion"], last["loss_attention"]],
        "outside": [json.loads(made["training.json"])[key] for key in ("outside_before", "outside_after")],
        "attention_mean": {name: float(found.mean()) for name, found in maps.items()},
    }


def picture_numbers(folder: Path) -> list[dict]:
    """Pictures of a text, and of vectors that were not learned."""
    models = models_for_tests(base=folder)
    vectors = np.random.default_rng(0).normal(size=(5, 2, 1, 32)).astype(np.float32)
    tokens = _tokens(vectors, models.settings.weights["base"])
    text = run_stage("generate", DRAWING | {"text": "person"}, {"a": {}}, models)["a"]
    learned = run_stage("generate", DRAWING | {"text": None}, {"a": {"tokens": tokens}}, models)["a"]
    return [
        {
            "picture": [subject, row.prompt_id, row.seed],
            "means": row.image.mean(axis=(0, 1)).round(3).tolist(),
            "blocks": row.image.reshape(4, 8, 4, 8, 3).mean(axis=(1, 3, 4)).round(3).tolist(),
            "attention_mean": round(float(np.mean(row.attention, dtype=np.float64)), 6),
        }
        for subject, shard in (("text", text), ("tokens", learned))
        for row in read_shard(shard["pictures.parquet"])
    ]


def _tokens(vectors: np.ndarray, base_digest: str) -> bytes:
    import torch

    tensors = {"text_encoder": torch.from_numpy(vectors)}
    cuts = (200, 400, 600, 800)
    return IdentityTokens(
        tensors, base_digest, "person", "{}", cuts, 1000, "v_prediction", "0" * 64, {}
    ).to_bytes()


def score_numbers() -> dict[str, list]:
    """Every metric of the miniature's over renders: the person as asked, another scene and a hat, no person."""
    models = models_for_tests()
    person = person_from_seed(SAMPLE_SEEDS[0])
    hat = Shot(framing="half", attributes=frozenset({"hat"}), held="umbrella")
    drawn = [
        render(person, Shot(framing="half", scene="beach")).image,
        render_scene(Shot(scene="snow")).image,
        render(person, hat).image,
        render(person_from_seed(SAMPLE_SEEDS[1]), Shot()).image,
    ]
    settings = DrawSettings(base="b", sampler="x", steps=1, guidance_scale=1.0, precision="float32", version=1)
    grid = PromptGrid("golden", tuple(Prompt(*prompt) for prompt in PROMPTS), "")
    heat = np.linspace(0.1, 1, 64, dtype=np.float16).reshape(8, 8)
    cells = grid_cells(grid, range(2), settings, subject="person")
    shard = write_shard([ShardRow.of(cell, image, heat) for cell, image in zip(cells, drawn, strict=True)])
    blobs = {"pictures": shard, "reference": photos.encode_png(render(person, Shot()).image)}
    parameters = {"prompts": PROMPTS, "class_word": "person", "scorers": "miniature"}
    found = {}
    for metric in NightlyConfig().score.metrics:  # those of photographs need weights that do not ship
        made = run_stage(f"score-{metric}", parameters, {"a": blobs}, models)["a"]
        found[metric] = [
            [row.prompt_id, row.seed, row.metric, row.value, row.detail]
            for row in read_scores(made["scores.parquet"])
        ]
    return found


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("tiny"))


def test_detect_parse_and_mask(golden):
    """Eyes within 0.1 pixels of the photo, classes within 1 % of the crop, masks that share 99 %."""
    found, wanted = face_numbers(), golden["faces"]
    assert np.allclose(found["eyes"], wanted["eyes"], atol=0.1)
    assert np.allclose(found["box"], wanted["box"], atol=0.5)
    assert found["sharpness"] == pytest.approx(wanted["sharpness"], rel=0.01)
    assert np.allclose(found["crop_mean"], wanted["crop_mean"], atol=0.5)
    assert found["class_pixels"] == pytest.approx(wanted["class_pixels"], abs=41)
    assert found["mask_area_share"] == pytest.approx(wanted["mask_area_share"], abs=0.002)
    ours, theirs = (
        np.unpackbits(np.frombuffer(base64.b64decode(n["mask_bits"]), np.uint8)) for n in (found, wanted)
    )
    assert theirs.sum() > 300 and (ours & theirs).sum() / (ours | theirs).sum() >= 0.99


def test_personalize(golden, tiny):
    """Vectors within 0.002 a number (a step moves it by 0.02), losses and attention within 1 %."""
    found, wanted = token_numbers(tiny), golden["personalize"]
    assert np.allclose(found["first_numbers"], wanted["first_numbers"], atol=0.002)
    assert np.allclose(found["lengths"], wanted["lengths"], atol=0.005)
    for name in ("losses", "outside", "attention_mean"):
        assert found[name] == pytest.approx(wanted[name], rel=0.01)


def test_generate(golden, tiny):
    """Means of pictures and of their sixteenths within a fifth of a gray level, attention within 1 %."""
    for found, wanted in zip(picture_numbers(tiny), golden["generate"], strict=True):
        assert found["picture"] == wanted["picture"]
        assert np.allclose(found["means"], wanted["means"], atol=0.2)
        assert np.allclose(found["blocks"], wanted["blocks"], atol=0.2)
        assert found["attention_mean"] == pytest.approx(wanted["attention_mean"], rel=0.01)


def test_score(golden):
    """The same rows and words, values within 0.01; what is found or not is the same."""
    found = score_numbers()
    assert list(found) == list(golden["score"])
    for metric, wanted in golden["score"].items():
        assert [row[:3] + row[4:] for row in found[metric]] == [row[:3] + row[4:] for row in wanted]
        for ours, theirs in zip(found[metric], wanted, strict=True):
            assert ours[3] == pytest.approx(theirs[3], abs=0.01), ours


def main() -> None:
    """Write what the stages give now."""
    with tempfile.TemporaryDirectory() as folder:
        tiny = write_tiny_pipeline(Path(folder))
        found = {
            "faces": face_numbers(),
            "personalize": token_numbers(tiny),
            "generate": picture_numbers(tiny),
            "score": score_numbers(),
        }
    GOLDEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"Wrote {GOLDEN}; look at what changed: git diff {GOLDEN}")


if __name__ == "__main__":
    main()
