"""Labels, masks and the ellipse parser."""

import numpy as np
import pytest

from faceid_core.errors import ConfigurationError, PhotoRejected
from faceid_core.faces.ellipse import EllipseParser
from faceid_core.faces.mask import make_mask
from faceid_core.faces.parse import parse_face
from faceid_core.geometry.classes import CLASSES, COLORS, INDEX, REGIONS
from faceid_core.geometry.protocols import Face
from faceid_core.miniature import people, renderer


def labels_of(**boxes):
    labels = np.zeros((64, 64), np.uint8)
    for name, (y0, y1, x0, x1) in boxes.items():
        labels[y0:y1, x0:x1] = INDEX[name]
    return labels


def test_classes_are_the_renderers():
    assert CLASSES == renderer.LABELS and len(COLORS) == len(CLASSES)
    assert all(name in INDEX for names in REGIONS.values() for name in names)


def test_regions_take_their_classes():
    labels = labels_of(
        hair=(8, 20, 18, 46), skin=(20, 50, 18, 46), eyes=(26, 30, 22, 28), neck=(50, 56, 26, 38)
    )
    areas = {region: make_mask(labels, region=region)[0].sum() for region in REGIONS}
    assert areas == {"face": 30 * 28, "face_hair": 42 * 28, "head": 42 * 28 + 6 * 12}
    with pytest.raises(ConfigurationError, match="face_hair"):
        make_mask(labels, region="nose")


def test_specks_are_dropped_and_glasses_closed():
    labels = labels_of(skin=(20, 50, 18, 46), accessory=(26, 32, 20, 30))
    labels[2:5, 2:5] = INDEX["skin"]
    mask, verdict = make_mask(labels)
    assert mask.dtype == np.float32 and set(np.unique(mask)) == {0.0, 1.0}
    assert mask[28, 25] == 1 and mask[3, 3] == 0 and mask.sum() == 30 * 28
    assert verdict["ok"] and not verdict["touches_border"] and 0 < verdict["dropped_share"] < 0.02


def test_border_and_area_show_in_the_verdict():
    verdict = make_mask(labels_of(skin=(0, 30, 18, 46)))[1]
    assert verdict["touches_border"] and not verdict["ok"]
    verdict = make_mask(labels_of(skin=(20, 34, 18, 32)))[1]
    assert not verdict["touches_border"] and not verdict["ok"] and verdict["area_share"] == 0.0479


def test_nothing_beyond_the_photo_is_masked():
    labels = labels_of(skin=(10, 50, 10, 50))
    valid = np.ones((64, 64), bool)
    valid[:, :30] = False
    assert make_mask(labels, valid=valid)[0][:, :30].sum() == 0
    with pytest.raises(PhotoRejected) as caught:
        make_mask(labels, valid=np.zeros((64, 64), bool))
    assert caught.value.reason == "mask_empty" and caught.value.value == 0


@pytest.mark.parametrize("name", ["background", "clothes"])
def test_no_face_in_the_labels_is_a_rejection(name):
    with pytest.raises(PhotoRejected, match="mask_empty"):
        make_mask(labels_of(**{name: (0, 64, 0, 64)}))


def test_ellipses_lie_on_the_face_of_a_close_up():
    """Against the renderer's true labels, on people of every shape: rough, but on the face."""
    shares = []
    for seed in people.HELD_OUT_SEEDS[:40]:
        truth = renderer.render(people.person_from_seed(seed), renderer.Shot(), size=64)
        face = Face(truth.boxes[0], *truth.eyes[0], 1.0)
        labels = parse_face(truth.image, EllipseParser(), face=face)
        mask, _ = make_mask(labels)
        inside = np.isin(truth.labels, [INDEX[n] for n in (*REGIONS["face"], "hair")])
        shares.append(inside[mask > 0].mean())
        for eye in truth.eyes[0]:
            assert labels[int(eye[1]), int(eye[0])] == INDEX["eyes"]
    # Real proportions: on the miniature's shorter faces the ellipse reaches a little below the chin.
    assert np.mean(shares) > 0.88 and np.min(shares) > 0.8
    assert EllipseParser.approximate


def test_ellipses_turn_with_the_eyes():
    crop = np.zeros((64, 64, 3), np.uint8)
    lying = Face((10, 10, 54, 54), (34, 25), (34, 39), 1.0)
    mask, _ = make_mask(parse_face(crop, EllipseParser(), face=lying))
    rows, columns = np.nonzero(mask)
    assert np.ptp(columns) > np.ptp(rows) and columns.mean() < 34
    assert parse_face(crop, EllipseParser())[int(0.543 * 64), int(0.387 * 64)] == INDEX["eyes"]


def test_parser_that_breaks_its_contract_is_named():
    class Broken(EllipseParser):
        name = "broken"

        def parse(self, crops, faces=None):
            return super().parse(crops, faces) + np.uint8(200)

    with pytest.raises(ValueError, match="broken"):
        parse_face(np.zeros((64, 64, 3), np.uint8), Broken())
