"""What a detector lets pass on photographs: covered eyes and mouths, drawings, cut sides, turned photos, second faces."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from skimage import data

from faceid_core.config import NightlyConfig
from faceid_core.errors import PhotoRejected
from faceid_core.faces.backends import load_faces
from faceid_core.faces.detect import detect_face
from faceid_core.faces.quality import Limits
from faceid_core.faces.visible import detail_share, measure_visible
from faceid_core.geometry.protocols import Face

EYES = (203.5, 101.0), (246.9, 103.4)
FACE = Face((177.0, 66.0, 272.0, 161.0), *EYES, 0.9)
LIMITS = Limits.of(NightlyConfig(faces={"backend": "deepface"}).faces.limits())


@pytest.fixture(scope="module")
def dlib():
    return load_faces("deepface", model="dlib")[0]


class Fixed:
    """A detector that always gives one answer, and suspects what it is given."""

    name, version, searches_eyes = "deepface-fixed", "1", True

    def __init__(self, *suspected, face=FACE):
        self.suspected, self.face = list(suspected), face

    def detect(self, images):
        return [[self.face] for _ in images]

    def look(self, image):
        return [self.face], self.suspected


def rejection(image, detector, limits=LIMITS):
    with pytest.raises(PhotoRejected) as caught:
        detect_face(image, detector, limits=limits)
    return caught.value


def with_sunglasses():
    image = data.astronaut().copy()
    for x, y in EYES:
        cv2.ellipse(image, (round(x), round(y) + 3), (19, 14), 0, 0, 360, (25, 22, 20), -1, cv2.LINE_AA)
    return image


def with_a_mask():
    image = data.astronaut().copy()
    cv2.ellipse(image, (225, 148), (38, 28), 0, 0, 360, (200, 225, 240), -1, cv2.LINE_AA)
    return image


def test_a_portrait_passes_with_both_detectors(dlib):
    for detector in (dlib, load_faces("deepface")[0]):
        found = detect_face(data.astronaut(), detector, limits=LIMITS)
        assert found.warnings == () and found.others == 0
        assert found.quality["eye_brightness"] > 0.9 and found.quality["mouth_contrast"] > 0.08


def test_sunglasses_and_masks_are_named_or_warned_of(dlib):
    refused = rejection(with_sunglasses(), Fixed())
    assert refused.reason == "face_covered" and "sunglasses" in refused.sentence
    refused = rejection(with_a_mask(), Fixed())
    assert refused.reason == "face_covered" and "mouth" in refused.sentence
    assert rejection(with_sunglasses(), dlib).reason in ("face_covered", "no_face")
    warned = detect_face(with_sunglasses(), Fixed(), limits=replace(LIMITS, covered="warn"))
    assert "eyes" in warned.warnings[0] and warned.facts()["warnings"] == list(warned.warnings)


def test_a_drawing_has_no_texture():
    drawn = cv2.medianBlur(cv2.GaussianBlur(data.astronaut(), (0, 0), 2) // 64 * 64, 9)
    assert measure_visible(drawn, FACE)["flat_share"] > LIMITS.max_flat_share
    assert measure_visible(data.astronaut(), FACE)["flat_share"] < 0.1
    refused = rejection(drawn, Fixed(), replace(LIMITS, min_sharpness=0.0))
    assert refused.reason == "not_a_photograph"


def test_a_side_that_cuts_through_the_face():
    refused = rejection(
        np.ascontiguousarray(data.astronaut()[:, :259]), Fixed(), replace(LIMITS, max_cut_share=1)
    )
    assert refused.reason == "face_cut_off" and "side" in refused.sentence and refused.value < 0.4


def test_a_turned_photo_is_told_how_to_stand_up(dlib):
    for quarters, how in ((3, "to the left"), (1, "to the right"), (2, "half a turn")):
        refused = rejection(np.ascontiguousarray(np.rot90(data.astronaut(), quarters)), dlib)
        assert refused.reason == "turned_photo" and how in refused.sentence


def test_a_face_that_one_of_two_detectors_sees_counts():
    second = replace(FACE, box=(300.0, 60.0, 395.0, 155.0))
    assert rejection(data.astronaut(), Fixed(second)).reason == "several_faces"
    same, small = (
        replace(FACE, box=(180.0, 70.0, 270.0, 160.0)),
        replace(FACE, box=(300.0, 60.0, 330.0, 90.0)),
    )
    assert detect_face(data.astronaut(), Fixed(same, small), limits=LIMITS)


@pytest.mark.parametrize("side", ["left", "right"])
def test_half_a_second_face_at_the_photos_side_counts(dlib, side):
    """A face that the side cuts in two is seen by no detector; beside its mirror image it is a whole one."""
    middle = round((FACE.box[0] + FACE.box[2]) / 2)
    # The photo ends in the middle of the neighbor's face.
    wide = np.concatenate([data.astronaut()[:, :420], data.astronaut()[:, 60 : middle + 1]], axis=1)
    photo = wide if side == "right" else np.ascontiguousarray(wide[:, ::-1])
    refused = rejection(photo, dlib)
    assert (refused.reason, refused.value) == ("several_faces", 2)
    assert detect_face(wide[:, : 420 + 60], dlib, limits=LIMITS).others == 0


def test_mirrored_glasses_have_no_eyes():
    """They are as bright as skin at their lower rim; all but that is dark, and the cascade sees no eye."""
    image = data.astronaut().copy()
    for x, y in (map(round, eye) for eye in EYES):
        for row in range(26):
            gray = 45 + 0.33 * row**2
            color = (gray, 0.9 * gray, 0.85 * gray)
            cv2.line(image, (x - 19, y - 10 + row), (x + 19, y - 10 + row), color, 1)
    figures = measure_visible(image, FACE)
    assert figures["eye_brightness"] > LIMITS.min_eye_brightness and figures["eyes_seen"] == 0
    refused = rejection(image, Fixed())
    assert refused.reason == "face_covered" and "sunglasses" in refused.sentence
    assert detect_face(image, Fixed(), limits=replace(LIMITS, min_eye_brightness=0.0))


@pytest.mark.parametrize("quality", [None, 75])
def test_a_face_that_was_enlarged_is_told_from_one_that_has_its_pixels(quality):
    """64 pixels blown up to 710, as an editor saves them: 710 pixels of width, and none of detail."""
    scale = 64 / (FACE.box[2] - FACE.box[0])
    small = cv2.resize(data.astronaut(), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    large = cv2.resize(small, None, fx=710 / 64, fy=710 / 64, interpolation=cv2.INTER_CUBIC)
    if quality:
        large = cv2.imdecode(cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
    factor = scale * 710 / 64
    eyes = [tuple(factor * value for value in eye) for eye in EYES]
    face = Face(tuple(factor * value for value in FACE.box), *eyes, 0.9)
    refused = rejection(large, Fixed(face=face))
    assert refused.reason == "enlarged" and "710 pixels" in refused.sentence and refused.value < 0.33
    assert detail_share(data.astronaut(), FACE.box) > 0.8
    assert detect_face(large, Fixed(face=face), limits=replace(LIMITS, min_detail_share=0.0))


def test_dark_and_pale_faces():
    for image in ((data.astronaut() * 0.2).astype(np.uint8), (data.astronaut() * 0.1 + 150).astype(np.uint8)):
        refused = rejection(image, Fixed(), replace(LIMITS, max_clipped_share=None, min_sharpness=0.0))
        assert refused.reason == "badly_exposed"


def test_a_failed_search_for_eyes_blames_the_detector():
    refused = rejection(data.astronaut(), Fixed(face=replace(FACE, left_eye=None)))
    assert (
        refused.reason == "eyes_not_found"
        and "dlib" in refused.sentence
        and "eyes open" not in refused.sentence
    )


def test_auto_is_dlib_where_it_is_installed(monkeypatch):
    faces = NightlyConfig(faces={"backend": "deepface"}).faces
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert faces.detector_name == faces.result_values()["detector"] == "dlib"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert faces.detector_name == "opencv"
