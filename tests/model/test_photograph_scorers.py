"""The scorers for photographs: Dlib on real photographs, CLIP and DeepFace's graphs from folders of the real layout."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.evaluate.clip import load_clip
from faceid_core.evaluate.pictures import crop_face, largest_face
from faceid_core.evaluate.recognizers import CUTS, load_recognizer
from faceid_core.faces.backends import load_faces
from faceid_core.geometry.align import transform_points
from faceid_core.geometry.protocols import Face
from faceid_core.miniature.people import SAMPLE_SEEDS, person_from_seed
from faceid_core.miniature.renderer import Shot, render
from faceid_core.weights.catalog import ATTRIBUTES, RECOGNIZERS
from faceid_core.weights.deepface_files import find_files
from faceid_core.weights.place import WeightsPlace
from faceid_core.weights.required import published
from faceid_core.weights.resolve import resolve
from tests.helpers.tiny_clip import write_tiny_clip
from tests.helpers.tiny_onnx import write_mean_network


@pytest.fixture(autouse=True)
def no_weights_of_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def dlib():
    return load_recognizer("Dlib")


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
    "gray": lambda image: np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2),
    "a coarse JPEG": lambda image: cv2.imdecode(
        cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 1
    ),
}


def embedded(recognizer, detector, image):
    face = largest_face(detector.detect([image])[0])
    return recognizer.embed([crop_face(image, face, recognizer.cut.pixels, recognizer.cut.eyes)])[0]


@pytest.mark.parametrize(
    ("model", "names"), [("opencv", tuple(VARIANTS)), ("dlib", ("itself", "turned by 12 degrees", "gray"))]
)
def test_the_recognizer_accepts_mild_variants_of_a_photograph(dlib, model, names):
    detector = load_faces("deepface", model=model)[0]
    photo = embedded(dlib, detector, data.astronaut())
    cosines = {name: embedded(dlib, detector, VARIANTS[name](data.astronaut())) @ photo for name in names}
    assert {name for name, cosine in cosines.items() if cosine < dlib.acceptance + 0.03} == set()


def test_and_refuses_every_other_face_at_hand(dlib):
    photo = embedded(dlib, load_faces("deepface")[0], data.astronaut())
    # Photographs of other people, 25 pixels a side, already cut out; then drawn people.
    small = [cv2.resize(face, (150, 150), interpolation=cv2.INTER_CUBIC) for face in data.lfw_subset()[:24]]
    others = [np.repeat((np.clip(face, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2) for face in small]
    for seed in SAMPLE_SEEDS[:3]:
        shot = render(person_from_seed(seed), Shot(), size=256)
        face = Face((0, 0, 1, 1), *shot.eyes[0], 1.0)
        others.append(crop_face(shot.image, face, dlib.cut.pixels, dlib.cut.eyes))
    assert (dlib.embed(others) @ photo).max() < dlib.acceptance - 0.02


def test_faces_are_cut_for_dlib_as_dlib_cuts_them(dlib):
    from dlib import get_face_chip, get_frontal_face_detector, shape_predictor

    from faceid_core.weights.catalog import DETECTORS

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
    ours, theirs = crop_face(image, face, 150, CUTS["Dlib"].eyes), get_face_chip(image, five, 150, 0.25)
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
    crop = crop_face(tilted, Face(box, *eyes, 1.0), 160, None)
    straight = crop_face(image, Face(face.box, face.left_eye, face.right_eye, 1.0), 160, None)
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
        tmp_path / "deepface-SFace" / RECOGNIZERS["SFace"].files[0].name, axes=(2, 3), outputs=128
    )
    write_mean_network(tmp_path / "arcface_weights.onnx", axes=(1, 2), outputs=512)
    crops = [
        np.full((112, 112, 3), color, np.uint8) for color in ((200, 20, 20), (20, 200, 20), (190, 30, 10))
    ]
    for name, width in (("SFace", 128), ("ArcFace", 512)):
        recognizer = load_recognizer(name, find_files(RECOGNIZERS[name], [tmp_path]))
        found = recognizer.embed(crops)
        assert found.shape == (3, width) and np.linalg.norm(found, axis=1) == pytest.approx(1)
        assert found[0] @ found[2] > found[0] @ found[1]
        assert recognizer.embed(crops[1:2])[0] == pytest.approx(found[1], abs=1e-5)
        assert 0 < recognizer.acceptance < 1 and recognizer.name == f"deepface-{name}"
    matrix = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)
    blue_first = np.array([20, 20, 200], np.float32) / 255 @ matrix  # as DeepFace feeds its networks
    assert found[0] == pytest.approx(blue_first / np.linalg.norm(blue_first), abs=1e-5)


def test_attributes_are_read_through_analyze(tmp_path):
    from faceid_core.evaluate.attributes import load_attributes

    def files():
        place = WeightsPlace(str(tmp_path))
        refs = [published(model, place) for model in ATTRIBUTES.values()]
        return [path for ref in refs for path in resolve(ref, check=True).paths]

    with pytest.raises(MissingWeights, match=r"age_model_weights\.onnx"):
        load_attributes(files())
    write_mean_network(tmp_path / "age_model_weights.onnx", axes=(1, 2), outputs=101, softmax=True)
    write_mean_network(tmp_path / "gender_model_weights.onnx", axes=(1, 2), outputs=2, softmax=True, seed=1)
    reader = load_attributes(files())
    red, green = (np.full((224, 224, 3), color, np.uint8) for color in ((250, 5, 5), (5, 250, 5)))
    found = reader.attributes([red, green, red])
    assert found[0] == found[2] and all(0 < each.age < 100 for each in found)
    assert {each.gender for each in found} <= {"Man", "Woman"}
    assert found[0].age != found[1].age
    write_mean_network(tmp_path / "age_model_weights.onnx", axes=(1, 2), outputs=101, softmax=True, seed=5)
    assert load_attributes(files()).attributes([red])[0].age != found[0].age
