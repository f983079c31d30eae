"""DeepFace's detectors by name: every landmark that a model gives comes out under its name and on its side."""

import re
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from skimage import data

from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.evaluate.recognizers import load_recognizer
from faceid_core.faces import deepface_backend
from faceid_core.faces.backends import load_faces
from faceid_core.faces.deepface_backend import DeepFaceDetector
from faceid_core.faces.deepface_readers import FIVE_POINTS, read_regions, reader_of
from faceid_core.faces.detect import detect_face, face_from_facts
from faceid_core.geometry.align import FRAMINGS
from faceid_core.weights.catalog import RECOGNIZERS
from faceid_core.weights.deepface_files import DETECTOR_FILES, DETECTOR_PACKAGES

TRUE_EYES = np.array([(203.5, 101.0), (246.9, 103.4)])
# One face: its box (x, y, w, h), and eyes, nose and corners of the mouth from the picture's left.
BOX = (100.0, 50.0, 80.0, 100.0)
POINTS = np.array([(120.25, 90.5), (160.75, 91.5), (140.5, 110.25), (125.5, 130.0), (157.0, 131.5)])


class _YuNet:
    def setInputSize(self, size):
        self.size = size

    def setScoreThreshold(self, score):
        self.score = score

    def detect(self, picture):
        scale = picture.shape[1] / 1280
        row = np.concatenate([np.array(BOX) * scale, POINTS.ravel() * scale, [0.97]])
        return 1, row[None].astype(np.float32)


class _CenterFace:
    def forward(self, picture, height, width, threshold):
        x, y, w, h = BOX
        return np.array([[x, y, x + w, y + h, 0.97]]), POINTS.reshape(1, 10)


class _MTCNN:
    def detect_faces(self, picture):
        keypoints = dict(zip(FIVE_POINTS, POINTS.tolist(), strict=True))
        return [{"box": list(BOX), "confidence": 0.97, "keypoints": keypoints}]


class _FastMTCNN:
    def detect(self, picture, landmarks):
        x, y, w, h = BOX
        return np.array([[x, y, x + w, y + h]]), np.array([0.97]), POINTS[None]


@pytest.mark.parametrize(
    ("model", "client"),
    [
        ("yunet", SimpleNamespace(model=_YuNet())),
        ("centerface", SimpleNamespace(build_model=_CenterFace)),
        ("mtcnn", SimpleNamespace(model=_MTCNN())),
        ("fastmtcnn", SimpleNamespace(model=_FastMTCNN())),
    ],
)
def test_five_points_with_fractions_of_a_pixel(model, client):
    picture = np.zeros((720, 1280, 3), np.uint8)
    (found,) = reader_of(model)(client, picture)
    assert np.allclose(found.box, BOX, atol=0.01) and abs(found.confidence - 0.97) < 1e-6
    assert list(found.points) == list(FIVE_POINTS)
    assert np.allclose(list(found.points.values()), POINTS, atol=0.01)


def test_a_client_s_own_answer_turns_the_person_s_sides_into_the_picture_s():
    region = SimpleNamespace(
        x=100, y=50, w=80, h=100, confidence=0.9, left_eye=(160, 91), right_eye=(120, 90)
    )
    region.nose, region.mouth_left, region.mouth_right = (140, 110), (157, 131), (125, 130)
    (found,) = read_regions(SimpleNamespace(detect_faces=lambda _: [region]), None)
    assert found.points["left_eye"] == (120.5, 90.5) and found.points["right_eye"] == (160.5, 91.5)
    assert found.points["mouth_left"] == (125.5, 130.5) and found.points["nose"] == (140.5, 110.5)


def test_every_name_of_the_configuration_is_a_detector_of_deepface():
    from deepface.modules.modeling import AVAILABLE_MODELS

    from faceid_core.config import NightlyConfig

    schema = NightlyConfig.model_json_schema()["$defs"]["FacesConfig"]["properties"]["detector"]["enum"]
    assert set(schema) - {"auto"} == set(DETECTOR_FILES) <= set(AVAILABLE_MODELS["face_detector"])


def test_a_package_that_is_missing_is_named(monkeypatch):
    real = deepface_backend.importlib.util.find_spec
    monkeypatch.setattr(
        deepface_backend.importlib.util, "find_spec", lambda n: None if n == "facenet_pytorch" else real(n)
    )
    with pytest.raises(ConfigurationError, match=r"facenet-pytorch.*faces\.detector"):
        load_faces("deepface", model="fastmtcnn")


def test_a_package_that_another_package_needs_is_named(monkeypatch):
    from deepface.modules import modeling

    def build(**_):
        try:
            raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
        except ModuleNotFoundError as error:
            raise ImportError("install facenet-pytorch") from error

    real = deepface_backend.importlib.util.find_spec
    found = lambda name: object() if name == "facenet_pytorch" else real(name)  # noqa: E731
    monkeypatch.setattr(deepface_backend.importlib.util, "find_spec", found)
    monkeypatch.setattr(modeling, "build_model", build)
    with pytest.raises(ConfigurationError, match=r"torchvision, which is not installed.*faces\.detector"):
        load_faces("deepface", model="fastmtcnn")


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("dlib", "pip install dlib-bin"),
        ("retinaface", "pip install retina-face"),
        ("mtcnn", "pip install mtcnn"),
        ("fastmtcnn", "pip install facenet-pytorch"),
        ("mediapipe", "pip install mediapipe"),
        ("yunet", "face_detection_yunet_2023mar.onnx"),
        ("centerface", "centerface.onnx"),
        ("ssd", "deploy.prototxt"),
    ],
)
def test_each_detector_says_what_of_it_is_missing(tmp_path, monkeypatch, model, wanted):
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    real, package = deepface_backend.importlib.util.find_spec, DETECTOR_PACKAGES.get(model)
    monkeypatch.setattr(deepface_backend.importlib.util, "find_spec", lambda n: None if n == package else real(n))
    with pytest.raises((ConfigurationError, MissingWeights), match=re.escape(wanted)) as caught:
        # retinaface's file is looked for before its package: it has to be there.
        DeepFaceDetector(model, [tmp_path / "there"] if package else None)
    assert "faces.detector" in str(caught.value) or str(tmp_path) in str(caught.value)


def test_each_recognizer_says_what_of_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    for name, model in RECOGNIZERS.items():
        if name != "Dlib":  # its package brings it
            with pytest.raises(MissingWeights, match=re.escape(model.files[0].name)) as caught:
                load_recognizer(name)
            assert str(tmp_path) in str(caught.value)
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(ConfigurationError, match=r"Dlib needs the package dlib-bin.*pip install dlib-bin"):
        load_recognizer("Dlib")


def test_a_small_face_in_a_large_photo_is_searched_for_in_its_parts():
    image = np.full((2400, 4000, 3), 190, np.uint8)
    image[1500:1756, 2300:2556] = cv2.resize(data.astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
    copy = cv2.resize(image, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    detector = DeepFaceDetector()
    assert detector.detect([copy]) == [[]]
    (face,) = detector.detect([image])[0]
    assert np.abs(np.array([face.left_eye, face.right_eye]) - TRUE_EYES / 2 - (2300, 1500)).max() < 3


@pytest.fixture(scope="module")
def dlib_detector():
    return DeepFaceDetector("dlib")


def test_dlib_gives_eye_corners_and_nose_and_aligns_by_all_five(dlib_detector):
    found = detect_face(data.astronaut(), dlib_detector, crop_pixels=512, eye_targets=FRAMINGS["portrait"])
    assert found.others == 0 and found.confidence > 0.9
    assert np.abs(np.array(found.eyes) - TRUE_EYES).max() < 3
    assert set(found.landmarks) == {
        f"{side}_eye_{end}" for side in ("left", "right") for end in ("outer", "inner")
    } | {"nose_base"}
    placed = (TRUE_EYES @ found.transform[:, :2].T + found.transform[:, 2]) / 512
    assert np.abs(placed - FRAMINGS["portrait"]).max() < 0.02
    again = face_from_facts(found.facts())
    assert np.allclose(again.landmarks["nose_base"], found.face_in_crop().landmarks["nose_base"], atol=0.02)


def test_dlib_on_its_head_is_turned_upright_by_the_nose(dlib_detector):
    """Given the points of an upright face, a picture that stands on its head gives the same crop."""
    image = data.astronaut()
    upright = detect_face(image, dlib_detector, crop_pixels=128)

    class Turned:
        name, version = "turned", "1"

        def detect(self, images):
            from dataclasses import replace

            (face,) = dlib_detector.detect([image])[0]

            def turn(point):
                return (512 - point[0], 512 - point[1])

            x0, y0, x1, y1 = face.box
            points = {name: turn(point) for name, point in face.landmarks.items()}
            # A detector that names sides by the picture calls the eye on the left the left one.
            swapped = {"left": "right", "right": "left"}
            points = {"_".join(swapped.get(p, p) for p in n.split("_")): at for n, at in points.items()}
            return [
                [
                    replace(
                        face,
                        box=(512 - x1, 512 - y1, 512 - x0, 512 - y0),
                        left_eye=turn(face.right_eye),
                        right_eye=turn(face.left_eye),
                        landmarks=points,
                    )
                ]
            ]

    turned = detect_face(np.ascontiguousarray(image[::-1, ::-1]), Turned(), crop_pixels=128)
    assert np.abs(turned.crop.astype(int) - upright.crop.astype(int)).mean() < 2


@pytest.mark.exhaustive
def test_retinaface_loads_a_file_of_its_layout_and_reads_its_answer(monkeypatch, tmp_path):
    """The real network with random weights: what it finds means nothing, that it is loaded and read is the point."""
    retinaface = pytest.importorskip("retinaface.model.retinaface_pth_model")
    import torch

    weights = tmp_path / ".deepface" / "weights" / "retinaface.pth"
    weights.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(retinaface.RetinaFace().state_dict(), weights)
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    detector = DeepFaceDetector("retinaface")
    assert detector.weight_files == (weights,)
    (faces,) = detector.detect([data.astronaut()])
    assert all(0 <= face.confidence <= 1 for face in faces)
