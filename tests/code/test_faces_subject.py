"""Subjects that are no people: the user's box or mask decides the crop and the mask, and no face is looked for."""

import io

import numpy as np
import pytest
from PIL import Image

from faceid_core import photos
from faceid_core.errors import InputContractError, PhotoRejected
from faceid_core.faces.mask import make_mask
from faceid_core.faces.subject import cut_subject, read_subject_mask
from faceid_core.identity import parse_manifest
from faceid_core.stages.files import read_json, read_png
from tests.helpers.stage_runs import models_for_tests, run_stage

BOX = (100.0, 40.0, 180.0, 100.0)


def photo():
    """A gray 300 x 200 picture with a red subject that fills the box's left half."""
    image = np.full((200, 300, 3), 90, np.uint8)
    image[40:100, 100:140] = (230, 20, 20)
    return image


def cut(**changes):
    options = {"box": BOX, "mask": None, "crop_pixels": 64, "least_pixels": 40}
    return cut_subject(photo(), **(options | changes))


def test_a_box_is_cut_out_with_some_surroundings():
    found = cut()
    assert found.crop.shape == (64, 64, 3) and found.valid.all()
    # The crop's side is 100 pixels around (140, 70): the box spans 0.1 to 0.9 of it across and 0.2 to 0.8 down.
    rows, columns = np.flatnonzero(found.inside.any(1)), np.flatnonzero(found.inside.any(0))
    assert (columns[0], columns[-1]) == (6, 57) and (rows[0], rows[-1]) == (13, 50)
    assert found.crop[32, 20].tolist() == [230, 20, 20] and found.crop[32, 50].tolist() == [90, 90, 90]


def test_a_mask_says_which_pixels_and_the_box_which_part():
    red = photo()[..., 0] == 230
    red[0:10, 0:10] = True  # something else, outside the box
    both = cut(mask=red)
    assert both.box == BOX
    # Red is 40 x 60 of the crop's 100 x 100 pixels of the photo.
    assert abs(both.inside.sum() - 0.4 * 0.6 * 64 * 64) < 80
    assert both.inside[32, 20] and not both.inside[32, 50]
    alone = cut(mask=photo()[..., 0] == 230, box=None)
    assert alone.box == (100, 40, 140, 100)


def test_beyond_the_photo_is_no_subject():
    found = cut(box=(0.0, 0.0, 100.0, 190.0))
    assert not found.valid.all() and not (found.inside & ~found.valid).any()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mask": np.ones((10, 10), bool)}, "subject_mask_size"),
        ({"mask": np.zeros((200, 300), bool), "box": None}, "subject_outside"),
        ({"box": (400.0, 10.0, 500.0, 90.0)}, "subject_outside"),
        ({"box": (100.0, 40.0, 180.0, 60.0)}, "subject_too_small"),
    ],
)
def test_what_cannot_be_cut_out_is_rejected_by_reason(changes, reason):
    with pytest.raises(PhotoRejected) as caught:
        cut(**changes)
    assert caught.value.reason == reason


def test_every_part_of_a_given_mask_counts():
    labels = np.zeros((64, 64), np.uint8)
    labels[10:30, 10:30] = labels[40:50, 40:50] = 9
    mask, verdict = make_mask(labels, region="subject")
    assert mask.sum() == 500 and verdict["dropped_share"] == 0
    with pytest.raises(PhotoRejected, match="The mask covers only"):
        make_mask(np.zeros((64, 64), np.uint8), region="subject")


def test_the_stages_step_aside():
    models = models_for_tests()
    mask = np.repeat((photo()[..., :1] == 230).astype(np.uint8) * 255, 3, axis=2)
    blobs = {"photo": photos.encode_png(photo()), "subject_mask": photos.encode_png(mask)}
    limits = {"crop_pixels": 64, "min_face_pixels": 40, "min_sharpness": 0.08, "face_box": None}
    parameters = {**limits, "max_bytes": 10**6, "max_pixels": 10**6, "subject_box": list(BOX)}
    found = run_stage("detect", parameters, {"cat": blobs}, models)["cat"]
    assert read_json(found["detection.json"])["box"] == list(BOX)
    parsed = run_stage("parse", {"backend": "given"}, {"cat": {"subject": found["subject.png"]}}, models)[
        "cat"
    ]
    masked = run_stage(
        "mask",
        {"region": "subject"},
        {"cat": {"labels": parsed["labels.png"], "valid": found["valid.png"]}},
        models,
    )["cat"]
    assert np.array_equal(read_png(masked["mask.png"]), read_png(found["subject.png"]))
    assert "_faces" not in vars(models), "no detector and no parser was loaded"


def test_a_mask_with_transparent_parts_is_refused():
    limits = {"max_bytes": 10**6, "max_pixels": 10**6}
    inside = photo()[..., 0] == 230
    cut_out = np.dstack([photo(), inside.astype(np.uint8) * 255])  # the subject, on nothing
    with pytest.raises(PhotoRejected, match="transparent"):
        read_subject_mask(png(cut_out), **limits)
    opaque = np.full((*inside.shape, 4), 255, np.uint8)
    opaque[..., :3] = inside[..., None] * np.uint8(255)
    assert np.array_equal(read_subject_mask(png(opaque), **limits), inside)


def png(pixels: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


HEADER = "identity_id,photo,class_word,face_box,subject_box,subject_mask\n"


def test_the_manifest_names_a_box_or_a_mask():
    rows = 'cat,c.png,cat,,"1,2,30,40",\ncar,d.png,car,,,masks/d.png\n'
    cat, car = parse_manifest((HEADER + rows).encode(), source="m", base="/people")
    assert cat.subject_box == (1, 2, 30, 40) and cat.subject_mask is None and cat.class_word == "cat"
    assert car.subject_mask == "/people/masks/d.png" and car.subject_box is None
    faults = 'a,a.png,cat,"1,2,3,4","1,2,3,4",\nb,b.png,cat,,"4,2,3,4",ftp://x/m.png\n'
    with pytest.raises(InputContractError) as caught:
        parse_manifest((HEADER + faults).encode(), source="m", base="/people")
    told = str(caught.value)
    assert "line 2: face_box names a face" in told
    assert (
        "line 3: subject_box '4,2,3,4' needs" in told and "subject_mask 'ftp://x/m.png': only local" in told
    )
