"""The gate for photographs: turned, badly exposed and covered faces, each with figure, limit and sentence."""

import math

import numpy as np
import pytest
from skimage import data

from faceid_core.errors import PhotoRejected
from faceid_core.faces.detect import detect_face
from faceid_core.faces.mask import covered_share, make_mask
from faceid_core.faces.quality import Limits, yaw_degrees
from faceid_core.geometry.align import FRAMINGS, TRAINING_EYE_TARGETS
from faceid_core.geometry.classes import INDEX
from faceid_core.geometry.protocols import Face
from faceid_core.miniature import people, renderer

BOX, LEFT, RIGHT = (177.0, 66.0, 272.0, 161.0), (203.5, 101.0), (246.9, 103.4)


class Fixed:
    """A detector that always finds the astronaut's face, with a nose where it is told."""

    name, version = "fixed", "1"

    def __init__(self, nose=None):
        self.landmarks = {} if nose is None else {"nose": nose}

    def detect(self, images):
        return [[Face(BOX, LEFT, RIGHT, 0.9, self.landmarks)] for _ in images]


def rejection(image, detector, **limits):
    with pytest.raises(PhotoRejected) as caught:
        detect_face(image, detector, limits=Limits(**limits))
    assert caught.value.sentence.endswith(".") and caught.value.value > caught.value.threshold
    return caught.value


@pytest.mark.parametrize("degrees", [-60, -20, 0, 35, 50])
@pytest.mark.parametrize(("name", "depth"), [("nose", 0.61), ("nose_base", 0.44)])
def test_yaw_of_a_head_turned_in_space(degrees, name, depth):
    """Eyes and a nose before them, turned about the vertical axis and seen from far away."""
    turn = math.radians(degrees)
    eyes = [(50 * math.cos(turn), 0.0), (-50 * math.cos(turn), 0.0)]
    nose = (100 * depth * math.sin(turn), 60.0)
    roll = np.array([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]])
    right, left, nose = (tuple(roll @ np.array(point)) for point in (*eyes, nose))
    assert yaw_degrees(Face((0, 0, 1, 1), left, right, 1.0, {name: nose})) == pytest.approx(degrees, abs=0.1)
    assert yaw_degrees(Face((0, 0, 1, 1), left, right, 1.0)) is None


def test_a_face_turned_away_is_rejected_where_the_detector_tells():
    turned, frontal = Fixed((252.0, 127.0)), Fixed((226.0, 127.0))
    refused = rejection(data.astronaut(), turned, max_yaw_degrees=35)
    assert refused.reason == "turned_away" and 40 < refused.value < 60
    assert (
        abs(detect_face(data.astronaut(), frontal, limits=Limits(max_yaw_degrees=35)).quality["yaw_degrees"])
        < 6
    )
    assert (
        "yaw_degrees" not in detect_face(data.astronaut(), Fixed(), limits=Limits(max_yaw_degrees=35)).quality
    )
    assert detect_face(data.astronaut(), turned)


@pytest.mark.parametrize(("factor", "word"), [(0.06, "dark"), (2.0, "bright")])
def test_black_and_burnt_out_faces_are_rejected(factor, word):
    spoilt = np.clip(data.astronaut().astype(float) * factor, 0, 255).astype(np.uint8)
    refused = rejection(spoilt, Fixed(), max_clipped_share=0.45)
    assert refused.reason == "badly_exposed" and f"too {word}" in refused.sentence
    for mild in (0.3, 1.4):
        still = np.clip(data.astronaut().astype(float) * mild, 0, 255).astype(np.uint8)
        assert (
            detect_face(still, Fixed(), limits=Limits(max_clipped_share=0.45)).quality["clipped_share"] < 0.4
        )


def test_nothing_about_a_drawn_person_is_measured_that_is_for_photographs():
    shot = renderer.render(people.person_from_seed(people.SAMPLE_SEEDS[0]), renderer.Shot(), size=128)

    class Drawn(Fixed):
        def detect(self, images):
            return [[Face(shot.boxes[0], *shot.eyes[0], 1.0)] for _ in images]

    assert set(detect_face(shot.image, Drawn()).quality) == {
        "face_pixels", "eye_distance_pixels", "sharpness", "cut_share", "brightness", "contrast"
    }  # fmt: skip


def test_uncovered_faces_of_every_shape_keep_within_the_limit():
    shares = []
    for seed in people.HELD_OUT_SEEDS[:30]:
        shot = renderer.render(people.person_from_seed(seed), renderer.Shot(), size=128)
        shares.append(covered_share(shot.labels, tuple((x / 128, y / 128) for x, y in shot.eyes[0])))
    assert max(shares) < 0.1


@pytest.mark.parametrize("framing", FRAMINGS)
def test_sunglasses_and_a_mask_before_the_mouth_cover_a_face(framing):
    (lx, ly), (rx, _) = FRAMINGS[framing]
    distance = rx - lx
    labels = np.full((128, 128), INDEX["background"], np.uint8)
    rows, columns = (np.indices((128, 128)) + 0.5) / 128
    labels[np.hypot((columns - 0.5) / distance, (rows - ly - 0.35 * distance) / (1.25 * distance)) < 1] = (
        INDEX["skin"]
    )
    options = {"eye_targets": FRAMINGS[framing], "max_covered_share": 0.3}
    assert make_mask(labels, **options)[1]["covered_share"] == 0
    for top, bottom, what in ((-0.3, 0.35, "accessory"), (0.4, 1.6, "object")):
        covered = labels.copy()
        covered[(rows > ly + top * distance) & (rows < ly + bottom * distance)] = INDEX[what]
        with pytest.raises(PhotoRejected, match="face_covered") as caught:
            make_mask(covered, **options)
        assert 0.3 < caught.value.value < 0.8 and caught.value.threshold == 0.3
    assert "covered_share" not in make_mask(labels, eye_targets=TRAINING_EYE_TARGETS)[1]
