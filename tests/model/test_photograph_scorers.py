"""The scorers for photographs: Dlib on real photographs, CLIP and DeepFace's graphs from folders of the real layout."""

from __future__ import annotations

import importlib.util
import os

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.evaluate.clip import load_clip
from faceid_core.evaluate.photographs import Chosen
from faceid_core.evaluate.pictures import cut_face, largest_face
from faceid_core.evaluate.recognisers import CUTS, load_recogniser
from faceid_core.faces.align import transform_points
from faceid_core.faces.backends import load_faces
from faceid_core.faces.protocols import Face
from faceid_core.miniature.people import SAMPLE_SEEDS, person_from_seed
from faceid_core.miniature.renderer import Shot, render
from faceid_core.store import DamagedWeights, write_lock
from faceid_core.weights.catalogue import ATTRIBUTES, CLIPS, RECOGNISERS
from faceid_core.weights.locate import LOCK, WeightsPlace, digest_of, entry_of
from tests.helpers.tiny_clip import write_tiny_clip
from tests.helpers.tiny_onnx import write_mean_network

with_dlib = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("dlib", "face_recognition_models")),
    reason="the extra is not installed: pip install 'faceid[dlib]'",
)


@pytest.fixture(autouse=True)
def no_weights_of_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def dlib():
    return load_recogniser("Dlib")


def turned(image, degrees):
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


VARIANTS = {
    "itself": lambda image: image,
    "mirrored": lambda image: image[:, ::-1].copy(),
    "turned by 12 degrees": lambda image: turned(image, 12),
    "darker": lambda image: (image * 0.6).astype(np.uint8),
    "half as large": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "grey": lambda image: np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2),
    "a coarse JPEG": lambda image: cv2.imdecode(
        cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 1
    ),
}


def embedded(recogniser, detector, image):
    face = largest_face(detector.detect([image])[0])
    return recogniser.embed([cut_face(image, face, recogniser.cut.pixels, recogniser.cut.eyes)])[0]


@with_dlib
@pytest.mark.parametrize("model", ["opencv", "dlib"])
def test_the_recogniser_accepts_mild_variants_of_a_photograph(dlib, model):
    detector = load_faces("deepface", model=model)[0]
    photo = embedded(dlib, detector, data.astronaut())
    cosines = {
        name: embedded(dlib, detector, make(data.astronaut())) @ photo for name, make in VARIANTS.items()
    }
    assert {name for name, cosine in cosines.items() if cosine < dlib.acceptance + 0.03} == set()


@with_dlib
def test_and_refuses_every_other_face_at_hand(dlib):
    photo = embedded(dlib, load_faces("deepface")[0], data.astronaut())
    # Photographs of other people, 25 pixels a side, already cut out; then drawn people.
    small = [cv2.resize(face, (150, 150), interpolation=cv2.INTER_CUBIC) for face in data.lfw_subset()[:24]]
    others = [np.repeat((np.clip(face, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2) for face in small]
    for seed in SAMPLE_SEEDS[:3]:
        shot = render(person_from_seed(seed), Shot(), size=256)
        face = Face((0, 0, 1, 1), *shot.eyes[0], 1.0)
        others.append(cut_face(shot.image, face, dlib.cut.pixels, dlib.cut.eyes))
    assert (dlib.embed(others) @ photo).max() < dlib.acceptance - 0.02


@with_dlib
def test_faces_are_cut_for_dlib_as_dlib_cuts_them(dlib):
    from dlib import get_face_chip, get_frontal_face_detector, shape_predictor

    from faceid_core.weights.catalogue import DETECTORS
    from faceid_core.weights.deepface_files import find_files

    image = data.astronaut()
    five = shape_predictor(str(find_files(DETECTORS["dlib"])[0]))(
        image, get_frontal_face_detector()(image, 1)[0]
    )
    points = np.array([(part.x, part.y) for part in five.parts()], np.float64) + 0.5
    right, left = (
        points[:2].mean(axis=0),
        points[2:4].mean(axis=0),
    )  # the picture's sides, each the mean of two corners
    face = Face((0, 0, 1, 1), tuple(left), tuple(right), 1.0)
    ours, theirs = cut_face(image, face, 150, CUTS["Dlib"].eyes), get_face_chip(image, five, 150, 0.25)
    one, other = dlib.embed([ours, theirs])
    assert one @ other > 0.99


def test_a_face_without_a_template_is_cut_as_deepface_cuts_it():
    image, face = data.astronaut(), largest_face(load_faces("deepface")[0].detect([data.astronaut()])[0])
    tilted = turned(image, 20)
    matrix = cv2.getRotationMatrix2D((256, 256), 20, 1)
    eyes = [tuple(point) for point in transform_points(matrix, [face.left_eye, face.right_eye])]
    middle = transform_points(matrix, [((face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2)])[0]
    half = face.width / 2
    box = (middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half)
    crop = cut_face(tilted, Face(box, *eyes, 1.0), 160, None)
    straight = cut_face(image, Face(face.box, face.left_eye, face.right_eye, 1.0), 160, None)
    x0, y0, x1, y1 = (round(value) for value in box)
    as_it_lies = cv2.resize(tilted[y0:y1, x0:x1], (160, 160))
    assert np.abs(crop.astype(int) - straight).mean() < 8  # of 255
    assert np.abs(as_it_lies.astype(int) - straight).mean() > 20


@pytest.mark.parametrize(("name", "patch"), [("ViT-B/32", 32), ("ViT-L/14", 14)])
def test_clip_scores_as_transformers_does(tmp_path, name, patch):
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = write_tiny_clip(tmp_path / "clip", patch=patch)
    scorer = load_clip(name, folder)
    images = [data.astronaut(), data.chelsea(), data.coffee()]
    texts = ["a photo of the woman", "a hat on the beach", "a photo of the woman"]
    model = CLIPModel.from_pretrained(folder)
    tokens = CLIPTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images, return_tensors="pt")
    with torch.no_grad():
        whole = model(**tokens, **pixels).logits_per_image / model.logit_scale.exp()
    assert scorer.score(images, texts) == pytest.approx(whole.diagonal().numpy(), abs=1e-5)
    assert scorer.score(images[1:2], texts[1:2]) == pytest.approx([whole[1, 1].item()], abs=1e-5)
    assert np.linalg.norm(scorer.embed_images(images), axis=1) == pytest.approx(1)
    long = "a photo of " + "the red hat " * 60
    assert np.isfinite(scorer.score(images[:1], [long])).all() and scorer.score([], []).shape == (0,)
    other = "ViT-L/14" if patch == 32 else "ViT-B/32"
    with pytest.raises(ConfigurationError, match=rf"patches of .* of {patch}"):
        load_clip(other, folder)
    (folder / "model.safetensors").write_bytes(b"no network")
    with pytest.raises(MissingWeights, match="cannot be loaded"):
        load_clip(name, folder)


def test_deepfaces_graphs_are_read_from_a_folder(tmp_path):
    write_mean_network(
        tmp_path / "deepface-SFace" / RECOGNISERS["SFace"].files[0].name, axes=(2, 3), outputs=128
    )
    write_mean_network(tmp_path / "arcface_weights.onnx", axes=(1, 2), outputs=512)
    crops = [
        np.full((112, 112, 3), colour, np.uint8) for colour in ((200, 20, 20), (20, 200, 20), (190, 30, 10))
    ]
    for name, width in (("SFace", 128), ("ArcFace", 512)):
        recogniser = load_recogniser(name, [tmp_path])
        found = recogniser.embed(crops)
        assert found.shape == (3, width) and np.linalg.norm(found, axis=1) == pytest.approx(1)
        assert found[0] @ found[2] > found[0] @ found[1]
        assert recogniser.embed(crops[1:2])[0] == pytest.approx(found[1], abs=1e-5)
        assert 0 < recogniser.acceptance < 1 and recogniser.name == f"deepface-{name}"
    matrix = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)
    blue_first = np.array([20, 20, 200], np.float32) / 255 @ matrix  # as DeepFace feeds its networks
    assert found[0] == pytest.approx(blue_first / np.linalg.norm(blue_first), abs=1e-5)


def test_attributes_are_read_through_analyze(tmp_path):
    from faceid_core.evaluate.attributes import load_attributes

    with pytest.raises(MissingWeights, match=r"age_model_weights\.onnx"):
        load_attributes([tmp_path])
    write_mean_network(tmp_path / "age_model_weights.onnx", axes=(1, 2), outputs=101, softmax=True)
    write_mean_network(tmp_path / "gender_model_weights.onnx", axes=(1, 2), outputs=2, softmax=True, seed=1)
    reader = load_attributes([tmp_path])
    red, green = (np.full((224, 224, 3), colour, np.uint8) for colour in ((250, 5, 5), (5, 250, 5)))
    found = reader.attributes([red, green, red])
    assert found[0] == found[2] and all(0 < each.age < 100 for each in found)
    assert {each.gender for each in found} <= {"Man", "Woman"}
    assert found[0].age != found[1].age
    write_mean_network(tmp_path / "age_model_weights.onnx", axes=(1, 2), outputs=101, softmax=True, seed=5)
    assert load_attributes([tmp_path]).attributes([red])[0].age != found[0].age


def test_weights_that_are_not_there_are_named_with_size_and_place(tmp_path):
    with pytest.raises(MissingWeights) as caught:
        load_recogniser("SFace", [tmp_path])
    text = str(caught.value)
    assert "face_recognition_sface_2021dec.onnx (24,227,283 bytes)" in text and "faceid models fetch" in text
    assert str(tmp_path / "deepface-SFace") in text
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        MissingWeights, match=r"model\.safetensors \(1,710,540,580 bytes\) in .*clip-vit-large-patch14"
    ):
        entry_of(CLIPS["ViT-L/14"], WeightsPlace(str(tmp_path)))
    with pytest.raises(MissingWeights, match="set `weights`"):
        entry_of(CLIPS["ViT-B/32"], WeightsPlace())
    with pytest.raises(ConfigurationError, match="unknown; use one of: Dlib"):
        load_recogniser("Buffalo_L")


def test_the_catalogue_names_what_deepface_would_download():
    modules = {
        name: f"deepface.models.facial_recognition.onnx.{name.replace('-', '').replace('512', '')}"
        for name in RECOGNISERS
    }
    modules |= {name: f"deepface.models.demography.onnx.{name}" for name in ATTRIBUTES}
    modules["Dlib"] = "deepface.models.facial_recognition.dlib.Dlib"
    for name, model in (RECOGNISERS | ATTRIBUTES).items():
        module = importlib.import_module(modules[name])
        known = [value for key, value in vars(module).items() if key.isupper() and "WEIGHT" in key]
        urls = {url for value in known for url in ([value] if isinstance(value, str) else value)}
        assert set(model.files[0].urls) <= urls, name
        assert model.files[0].urls[0].removesuffix(".bz2").endswith(model.files[0].name)


def test_a_set_is_keyed_by_its_files_and_only_by_those_that_it_asks(tmp_path):
    write_tiny_clip(tmp_path / CLIPS["ViT-B/32"].folder)
    write_mean_network(tmp_path / "arcface_weights.onnx", axes=(1, 2), outputs=512)
    chosen = Chosen("photographs", ("ArcFace", "SFace"), ("ViT-B/32",), WeightsPlace(str(tmp_path)))
    asked = chosen.digests({"recogniser", "image_text", "face_detector"})
    assert set(asked) == {"recogniser", "image_text"}
    with pytest.raises(MissingWeights, match="sface"):
        chosen.digests({"second_recogniser"})
    assert chosen.names()["second_recogniser"] == "deepface-SFace@1"
    # A lock beside the files says the same without reading them.
    folder = tmp_path / CLIPS["ViT-B/32"].folder
    write_lock(tmp_path / LOCK, {folder.name: folder})
    assert chosen.digests({"recogniser", "image_text"}) == asked
    write_mean_network(tmp_path / "arcface_weights.onnx", axes=(1, 2), outputs=512, seed=1)
    again = chosen.digests(set(asked))
    assert again["recogniser"] != asked["recogniser"] and again["image_text"] == asked["image_text"]


def test_a_published_file_is_not_replaced_by_another(tmp_path):
    write_mean_network(tmp_path / RECOGNISERS["SFace"].files[0].name, axes=(2, 3), outputs=128)
    with pytest.raises(DamagedWeights, match=r"published file has f6abbfff9575"):
        entry_of(RECOGNISERS["SFace"], WeightsPlace(str(tmp_path)))


def test_weights_are_staged_from_a_bucket(s3_server, tmp_path, monkeypatch):
    from faceid_core.weights.locate import files_of

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clip = CLIPS["ViT-B/32"]
    folder = write_tiny_clip(tmp_path / clip.folder)
    write_lock(tmp_path / LOCK, {clip.folder: folder})
    bucket = s3_server.new_bucket()
    for file in [tmp_path / LOCK, *folder.iterdir()]:
        s3_server.client.upload_file(str(file), bucket, f"weights/{file.relative_to(tmp_path)}")
    place = WeightsPlace(f"s3://{bucket}/weights")
    entry = entry_of(clip, place)
    assert digest_of(entry) == digest_of(entry_of(clip, WeightsPlace(str(tmp_path))))
    staged = files_of(clip, place, digest=digest_of(entry))
    assert {path.name for path in staged} == {path.name for path in folder.iterdir()}
    assert load_clip("ViT-B/32", staged[0].parent).score([data.coffee()], ["a hat"]).shape == (1,)
    # Staged once; a damaged copy is brought anew; a damaged original is refused.
    before = {path: path.stat().st_mtime_ns for path in staged}
    next(path for path in staged if path.name == "config.json").write_text("{}")
    files_of(clip, place, digest=digest_of(entry))
    assert {path.name for path, time in before.items() if path.stat().st_mtime_ns != time} == {"config.json"}
    s3_server.client.put_object(Bucket=bucket, Key=f"weights/{clip.folder}/config.json", Body=b"{}")
    next(path for path in staged if path.name == "config.json").unlink()
    with pytest.raises(DamagedWeights, match=r"config\.json"):
        files_of(clip, place, digest=digest_of(entry))
    with pytest.raises(MissingWeights, match="faceid models fetch --to s3://"):
        entry_of(RECOGNISERS["SFace"], place)
    with pytest.raises(MissingWeights, match="faceid models fetch --to"):
        entry_of(clip, WeightsPlace(f"s3://{bucket}/elsewhere"))


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ({"metrics": ["diversity"]}, "need scorers: photographs"),
        ({"scorers": "photographs", "metrics": ["identity_second"]}, "second name in recognisers"),
        ({"scorers": "photographs", "recognisers": ["Dlib", "Dlib"]}, "names Dlib twice"),
        (
            {"scorers": "photographs-selection", "selection_recogniser": "Dlib"},
            "both choose settings and report",
        ),
        (
            {"scorers": "photographs-selection", "selection_clip": "ViT-B/32"},
            "both choose settings and report",
        ),
        (
            {
                "scorers": "photographs-selection",
                "clips": ["ViT-B/32", "ViT-L/14"],
                "metrics": ["image_text"],
            },
            "both choose settings and report",
        ),
    ],
)
def test_sets_that_would_mix_selection_and_report_are_refused(score, message):
    with pytest.raises(ValueError, match=message):
        NightlyConfig(score=score)


def test_what_other_sets_do_not_read_is_in_no_digest():
    usual = NightlyConfig()
    assert usual.digest() == NightlyConfig(score={"recognisers": ["ArcFace"]}, weights="/models").digest()
    photographs = NightlyConfig(score={"scorers": "photographs"})
    assert photographs.digest() == NightlyConfig(score={"scorers": "photographs"}, weights="/models").digest()
    assert (
        photographs.digest()
        != NightlyConfig(score={"scorers": "photographs", "recognisers": ["SFace"]}).digest()
    )


def test_a_worker_refuses_downloads(monkeypatch):
    from huggingface_hub import constants

    from faceid_core.weights.offline import refuse_downloads

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    refuse_downloads()
    assert os.environ["HF_HUB_OFFLINE"] == "1" and constants.is_offline_mode()
    from deepface.commons import weight_utils

    from faceid_core.weights.deepface_files import prepare_deepface

    prepare_deepface()
    with pytest.raises(MissingWeights, match=r"vgg_face_weights\.onnx"):
        weight_utils.download_weights_if_necessary("vgg_face_weights.onnx", "https://example.invalid/x")


def test_deepface_reads_graphs_whatever_it_chose_before(tmp_path):
    from deepface.commons import backend_utils
    from deepface.modules import modeling

    backend_utils._backend_engine = "pytorch"  # as it is after a detector was built by DeepFace alone
    modeling.get_model_class(task="face_detector", model_name="opencv")
    write_mean_network(tmp_path / "arcface_weights.onnx", axes=(1, 2), outputs=512)
    assert load_recogniser("ArcFace", [tmp_path]).embed([np.zeros((112, 112, 3), np.uint8) + 9]).shape == (
        1,
        512,
    )
