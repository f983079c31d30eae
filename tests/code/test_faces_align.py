"""Alignment: eyes go where they should, whatever the photo's turn, size and edge."""

import math

import cv2
import numpy as np
import pytest

from faceid_core.geometry.align import (
    FACE_TEMPLATE,
    FRAMINGS,
    TRAINING_EYE_TARGETS,
    align,
    fit_similarity,
    similarity,
    transform_points,
)
from faceid_core.miniature import people, renderer


def dots(width, height, *points):
    """A black photo with a white disc of radius 6 at each point."""
    image = np.zeros((height, width, 3), np.uint8)
    for x, y in points:
        cv2.circle(
            image, (round((x - 0.5) * 16), round((y - 0.5) * 16)), 6 * 16, (255,) * 3, -1, cv2.LINE_AA, 4
        )
    return image


def center_of_light(crop, half):
    """Center of brightness (x, y) of the left or the right half of a crop, as fractions of its side."""
    side = crop.shape[0]
    light = crop[..., 0].astype(np.float64)
    light[:, side // 2 :] *= half == "right"
    light[:, : side // 2] *= half == "left"
    places = np.arange(side) + 0.5
    return (light.sum(0) @ places) / light.sum() / side, (light.sum(1) @ places) / light.sum() / side


@pytest.mark.parametrize("degrees", [0, 25, -70, 180])
@pytest.mark.parametrize("size", [64, 512])
def test_eyes_land_on_their_targets(degrees, size):
    turn = np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
    left, right = np.array([300.3, 280.7]) - 40 * turn, np.array([300.3, 280.7]) + 40 * turn
    crop, valid, transform = align(dots(600, 600, left, right), tuple(left), tuple(right), size=size)
    assert crop.shape == (size, size, 3) and crop.dtype == np.uint8 and valid.all()
    for half, target, eye in zip(("left", "right"), TRAINING_EYE_TARGETS, (left, right), strict=True):
        assert np.allclose(transform_points(transform, [eye])[0] / size, target)
        assert np.allclose(center_of_light(crop, half), target, atol=0.003), (half, target)


def test_the_same_place_at_every_resolution():
    """A pixel's center is at +0.5: half a pixel off would show when the photo is shrunk."""
    photo = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    photo = cv2.resize(photo, (512, 512), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(photo, (128, 128), interpolation=cv2.INTER_AREA)
    first, _, _ = align(photo, (200, 240), (300, 230), size=48)
    second, _, _ = align(small, (50, 60), (75, 57.5), size=48)
    assert np.abs(first.astype(int) - second.astype(int)).mean() < 2


def test_own_close_up_is_left_as_it_is():
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    eyes = [(x * 64, y * 64) for x, y in TRAINING_EYE_TARGETS]
    crop, valid, _ = align(image, *eyes, size=64)
    assert (crop == image).all() and valid.all()


@pytest.mark.parametrize("shrink", [5, 60])
def test_shrinking_averages(shrink):
    """Fine stripes become gray; picking single pixels would leave them black and white."""
    side = 64 * shrink
    image = np.zeros((side, side, 3), np.uint8)
    image[:, ::2] = 255
    eyes = [(x * side, y * side) for x, y in TRAINING_EYE_TARGETS]
    crop, _, _ = align(image, *eyes, size=64)
    assert np.abs(crop.astype(int) - 127).max() <= 26


def test_beyond_the_photo_is_marked_and_repeats_its_edge():
    image = np.full((100, 100, 3), 90, np.uint8)
    image[:, :50] = 30
    crop, valid, transform = align(image, (10, 20), (40, 20), size=64)
    rows, columns = np.nonzero(~valid)
    assert 0.1 < (~valid).mean() < 0.9
    outside = transform_points(cv2.invertAffineTransform(transform), np.stack([columns, rows], 1) + 0.5)
    assert ((outside < 0) | (outside > 100)).any(axis=1).all()
    assert set(np.unique(crop[:, 0])) == {30}


def test_photo_wider_than_opencv_warps():
    image = np.zeros((64, 40_000, 3), np.uint8)
    image[:, 39_000:] = 200
    crop, _, _ = align(image, (39_100, 30), (39_130, 30), size=64)
    assert (crop[30:34, 30:34] == 200).all()


def landmarks_of(left, right, names, noise=0.0):
    """Template points of a face whose eyes are given, shifted by `noise` eye distances."""
    left, right = np.array(left, float), np.array(right, float)
    along, draw = right - left, np.random.default_rng(0)
    down = np.array([-along[1], along[0]])
    found = {}
    for name in names:
        x, y = FACE_TEMPLATE[name] + draw.normal(0, noise, 2) if noise else FACE_TEMPLATE[name]
        found[name] = tuple((left + right) / 2 + x * along + y * down)
    return found


@pytest.mark.parametrize("names", [("nose", "mouth_left", "mouth_right"), tuple(FACE_TEMPLATE)[3:]])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_face_of_usual_proportions_is_aligned_alike_by_two_and_by_five_points(names, framing):
    image = np.random.default_rng(2).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    left, right = (130.0, 120.0), (170.0, 131.0)
    targets = FRAMINGS[framing]
    by_eyes = align(image, left, right, size=64, eye_targets=targets)[2]
    by_all = align(
        image, left, right, size=64, eye_targets=targets, landmarks=landmarks_of(left, right, names)
    )[2]
    assert np.allclose(by_eyes, by_all, atol=1e-6)


def test_five_points_steady_what_one_eye_gets_wrong():
    left, right, wrong = (100.0, 100.0), (160.0, 100.0), (160.0, 112.0)
    points = landmarks_of(left, right, ("nose", "mouth_left", "mouth_right"))
    image = np.zeros((300, 300, 3), np.uint8)
    targets = FRAMINGS["portrait"]

    def tilt(landmarks):
        matrix = align(image, left, wrong, size=64, eye_targets=targets, landmarks=landmarks)[2]
        return abs(math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])))

    assert tilt({}) > 11 and tilt(points) < 6
    # Half of an eye's corners say nothing about where its center is.
    assert tilt({"left_eye_outer": (0.0, 0.0)}) == tilt({})


def test_least_squares_find_a_similarity_again():
    points = np.random.default_rng(3).normal(size=(5, 2)) * 40
    matrix = np.array([[0.6, -0.8, 5.0], [0.8, 0.6, -7.0]]) * 1.5
    assert np.allclose(fit_similarity(points, transform_points(matrix, points)), matrix)


def test_impossible_eyes_are_refused():
    image = np.zeros((50, 50, 3), np.uint8)
    with pytest.raises(ValueError, match="apart"):
        align(image, (10, 10), (10.2, 10), size=64)
    with pytest.raises(ValueError, match="outside"):
        align(image, (1000, 10), (1020, 10), size=64)
    assert np.allclose(similarity(((0, 0), (2, 0)), ((5, 5), (5, 9))), [[0, -2, 5], [2, 0, 5]])


def test_targets_are_those_of_the_renderer():
    eyes = []
    for seed in people.SCORER_TRAINING_SEEDS[:200]:
        eyes += renderer.render(people.person_from_seed(seed), renderer.Shot(), size=64).eyes
    assert np.allclose(np.mean(eyes, axis=0) / 64, TRAINING_EYE_TARGETS, atol=0.004)
