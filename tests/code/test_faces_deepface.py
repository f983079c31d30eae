"""The real-photograph path with no download: astronaut() through DeepFace's opencv detector, and every rejection."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from skimage import data

from faceid_core import photos
from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, MissingWeights, PhotoRejected
from faceid_core.faces.backends import load_faces
from faceid_core.faces.detect import Detection, detect_face, face_from_facts
from faceid_core.faces.prepare import prepare_photo
from faceid_core.faces.quality import Limits
from faceid_core.geometry.protocols import Face
from faceid_core.miniature import people, renderer
from faceid_core.store.keys import canonical_json
from faceid_core.weights import deepface_files, resolve
from faceid_core.weights.catalog import VERSIONS
from faceid_core.weights.lock import shipped_lock
from faceid_core.weights.required import DETECTOR, required
from tests.helpers.face_models import detector_digest, parser_digest

# Pupil centers of astronaut(), read off an eightfold enlargement; the face reaches from brow line to chin.
TRUE_EYES = np.array([(203.5, 101.0), (246.9, 103.4)])
FACE_CENTER = (225, 120)


@pytest.fixture(scope="module")
def faces():
    return load_faces("deepface")


def rejection(image, detector, **options):
    with pytest.raises(PhotoRejected) as caught:
        detect_face(image, detector, **options)
    return caught.value


def test_astronaut_all_the_way(faces):
    detector, parser = faces
    prepared = prepare_photo(
        photos.encode_png(data.astronaut()), detector=detector, parser=parser, size=256, region="face"
    )
    found = prepared.detection
    x0, y0, x1, y1 = found.box
    assert x0 < FACE_CENTER[0] < x1 and y0 < FACE_CENTER[1] < y1 and 80 < x1 - x0 < 120
    assert np.abs(np.array(found.eyes) - TRUE_EYES).max() < 3
    # Where the true pupils come to lie in the crop, as a share of its side.
    placed = (TRUE_EYES @ found.transform[:, :2].T + found.transform[:, 2]) / 256
    assert np.abs(placed - [(0.387, 0.543), (0.613, 0.543)]).max() < 0.02
    assert found.others == 0 and 0.9 < found.valid.mean() < 1 and not found.valid[0, 0]
    assert prepared.approximate and prepared.verdict["ok"] and 0.1 < prepared.mask.mean() < 0.35
    # The masked part is skin and not the pale backdrop or the suit: reddish.
    red, green, blue = found.crop[prepared.mask > 0].mean(axis=0)
    assert red > green > blue and red - blue > 30
    picture = photos.decode_png(prepared.picture())
    assert picture.shape[0] == 350 and picture.shape[1] > 1200


def test_facts_are_json_and_give_the_face_back(faces):
    found = detect_face(data.astronaut(), faces[0], crop_pixels=128)
    again = face_from_facts(json.loads(canonical_json(found.facts())))
    assert isinstance(found, Detection)
    for name in ("box", "left_eye", "right_eye"):
        assert np.allclose(getattr(again, name), getattr(found.face_in_crop(), name), atol=0.02)
    assert np.allclose(np.array(again.left_eye) / 128, (0.387, 0.543), atol=0.001)


@pytest.mark.parametrize("scale", [0.6, 2.0])
def test_the_same_eyes_at_other_resolutions(faces, scale):
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = cv2.resize(data.astronaut(), None, fx=scale, fy=scale, interpolation=way)
    found = detect_face(image, faces[0])
    assert np.abs(np.array(found.eyes) / scale - TRUE_EYES).max() < 3


def test_mirrored_photo_keeps_left_on_the_left(faces):
    (left, _), (right, _) = detect_face(np.ascontiguousarray(data.astronaut()[:, ::-1]), faces[0]).eyes
    assert left < right and abs(left - (512 - TRUE_EYES[1, 0])) < 3


def test_pictures_without_a_face(faces):
    for image in (data.coffee(), np.zeros((300, 300, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)):
        assert rejection(image, faces[0]).reason == "no_face"


def test_two_people_are_refused_unless_one_is_named(faces):
    two = np.concatenate([data.astronaut(), data.astronaut()], axis=1)
    refused = rejection(two, faces[0])
    assert (refused.reason, refused.value) == ("several_faces", 2) and "face_box" in refused.sentence
    right = detect_face(two, faces[0], face_box=(680.0, 60.0, 790.0, 170.0))
    assert right.eyes[0][0] > 512 and right.others == 1
    assert rejection(two, faces[0], face_box=(10.0, 300.0, 60.0, 350.0)).reason == "no_face"


def test_somebody_small_in_the_background_is_passed_over(faces):
    image = data.astronaut().copy()
    image = np.concatenate([image, np.full((512, 200, 3), 200, np.uint8)], axis=1)
    image[200:360, 530:690] = cv2.resize(data.astronaut()[30:230, 125:325], (160, 160))
    assert rejection(image, faces[0]).reason == "several_faces"
    image[200:360, 530:690] = 200
    image[200:270, 530:600] = cv2.resize(data.astronaut()[30:230, 125:325], (70, 70))
    assert detect_face(image, faces[0]).eyes[0][0] < 300


def test_too_small_too_blurred_and_cut_off(faces):
    small = cv2.resize(data.astronaut(), None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    refused = rejection(small, faces[0], limits=Limits(min_face_pixels=80))
    assert refused.reason == "face_too_small" and 50 < refused.value < refused.threshold == 80
    refused = rejection(cv2.GaussianBlur(data.astronaut(), (0, 0), 3.0), faces[0])
    assert refused.reason == "too_blurred" and 0 < refused.value < refused.threshold
    assert detect_face(cv2.GaussianBlur(data.astronaut(), (0, 0), 1.0), faces[0])
    refused = rejection(np.ascontiguousarray(data.astronaut()[:, :238]), _Fixed(TRUE_EYES))
    assert refused.reason == "face_cut_off" and 0.15 < refused.value < 0.6


class _Fixed:
    """A detector that always gives one answer."""

    name, version = "fixed", "1"

    def __init__(self, eyes):
        self.eyes = eyes

    def detect(self, images):
        left, right = (None, None) if self.eyes is None else map(tuple, self.eyes)
        return [[Face((177.0, 66.0, 272.0, 161.0), left, right, 0.9)] for _ in images]


@pytest.mark.parametrize("eyes", [None, [(200.0, 100.0), (200.0, 100.0)], [(9000.0, 100.0), (9040.0, 100.0)]])
def test_eyes_that_are_missing_or_impossible(eyes):
    assert rejection(data.astronaut(), _Fixed(eyes)).reason == "eyes_not_found"


def test_covered_eyes_are_said_to_be_missing(faces):
    image = data.astronaut().copy()
    image[97:109, 190:260] = cv2.GaussianBlur(image, (0, 0), 9)[97:109, 190:260]
    assert rejection(image, faces[0]).reason in ("eyes_not_found", "no_face")


def test_the_miniatures_renders_are_sharp_enough_at_128():
    for seed in people.SAMPLE_SEEDS:
        shot = renderer.render(people.person_from_seed(seed), renderer.Shot(), size=128)
        detector = _Fixed(shot.eyes[0])
        assert detect_face(shot.image, detector, limits=Limits(min_face_pixels=0)).quality["sharpness"] > 0.3
        blurred = cv2.GaussianBlur(shot.image, (0, 0), 3.5)
        assert rejection(blurred, detector).reason == "too_blurred"


def test_weights_that_would_be_downloaded_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    with pytest.raises(MissingWeights) as caught:
        load_faces("deepface", model="yunet")
    assert "face_detection_yunet_2023mar.onnx" in str(caught.value)
    assert os.path.join(str(tmp_path), ".deepface", "weights") in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "weights" / "deepface-yunet").mkdir(parents=True)
    brought = tmp_path / "weights" / "deepface-yunet" / "face_detection_yunet_2023mar.onnx"
    brought.touch()
    assert deepface_files.detector_files("yunet", (tmp_path / "weights",)) == (brought,), (
        "as models fetch puts it"
    )
    monkeypatch.setattr(deepface_files.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingWeights, match=r"predictor_5.*\.dat \(9,150,489 bytes\).*face_recognition_models"):
        load_faces("deepface", model="dlib")
    with pytest.raises(MissingWeights, match=r"retinaface\.pth"):
        load_faces("deepface", model="retinaface")
    with pytest.raises(ConfigurationError, match=r"pickles.*opencv"):
        load_faces("deepface", model="yolov8n")
    with pytest.raises(ConfigurationError, match="miniature"):
        load_faces("dlib")


def test_the_digest_changes_with_everything_that_decides_an_answer(monkeypatch, tmp_path):
    usual = detector_digest()
    digests = [usual, parser_digest("ellipse"), parser_digest("grabcut")]
    with monkeypatch.context() as patch:
        patch.setitem(VERSIONS, "detector", "next")
        patch.setitem(VERSIONS, "ellipse", "next")
        digests += [detector_digest(), parser_digest("ellipse")]
    files = deepface_files.detector_files("opencv")
    for file in files:
        changed = tmp_path / file.name
        changed.write_bytes(file.read_bytes() + b" ")
        found = tuple(changed if other == file else other for other in files)
        with monkeypatch.context() as patch:
            patch.setattr(resolve, "detector_files", lambda *_, found=found: found)
            digests.append(detector_digest())
    weights = tmp_path / ".deepface" / "weights" / deepface_files.DETECTOR_FILES["yunet"][0]
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"a network")
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    digests.append(detector_digest("yunet"))
    assert len(digests) == len(set(digests)) == 8 and all(len(digest) == 64 for digest in digests)
    assert detector_digest() == usual


def test_a_worker_reads_the_retinaface_file_that_was_planned(monkeypatch, tmp_path):
    """Whether DeepFace was loaded first in the process decides neither the file nor retinaface's engine."""
    weights = tmp_path / ".deepface" / "weights"
    weights.mkdir(parents=True)
    for suffix in ("h5", "onnx", "pth"):
        (weights / f"retinaface.{suffix}").write_bytes(suffix.encode())
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    engine = pytest.importorskip("retinaface.commons.backend_utils")
    planned = []
    for chosen in (None, "onnx"):
        monkeypatch.setattr(engine, "_backend_engine", chosen)
        planned += [(deepface_files.detector_files("retinaface"), detector_digest("retinaface"))]
    deepface_files.prepare_deepface()
    planned += [(deepface_files.detector_files("retinaface"), detector_digest("retinaface"))]
    assert len(set(planned)) == 1 and planned[0][0] == (weights / "retinaface.pth",)
    assert engine.is_pytorch()


def test_the_miniatures_digests_are_in_the_lock():
    detector = next(ref for ref in required(NightlyConfig()) if ref.role == DETECTOR)
    assert resolve.resolve(detector).digest == shipped_lock().digest("detector")


def test_deepface_prints_nothing_and_makes_no_home(tmp_path):
    code = (
        "from faceid_core.faces.backends import load_faces; from skimage.data import astronaut; import sys;"
        "assert len(load_faces('deepface')[0].detect([astronaut()])[0]) == 1;"
        "assert 'torch' not in sys.modules and 'tensorflow' not in sys.modules"
    )
    environment = {**os.environ, "DEEPFACE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    environment.pop("DEEPFACE_LOG_LEVEL", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.glob(".deepface*")) == []
