"""Copying on pictures whose truth is known: the photo itself, other pictures of the person, strangers."""

import hashlib

import numpy as np
import pytest

from faceid_core.evaluate.cells import DrawSettings, grid_cells
from faceid_core.evaluate.copying import copying_of
from faceid_core.evaluate.grid import parse_grid
from faceid_core.evaluate.metrics import score
from faceid_core.evaluate.scorers import load_scorers
from faceid_core.evaluate.shards import ShardRow
from faceid_core.miniature.people import HELD_OUT_SEEDS
from faceid_core.miniature.renderer import Shot, render_scene
from faceid_core.miniature.samples import POPULATIONS, other_portraits, portrait, seed_of_name, seed_of_photo
from faceid_core.photos import encode_png
from faceid_core.stages.planning.score import OTHER_PICTURES

SETTINGS = DrawSettings(base="b", sampler="x", steps=1, guidance_scale=1.0, precision="float32", version=1)
GRID = parse_grid("{name: t, prompts: [{id: free, text: a photo of V*, category: plain}]}", source="test")
SEEDS = HELD_OUT_SEEDS[310:316]


@pytest.fixture(scope="module")
def scorers():
    return load_scorers("miniature")


def copying(scorers, reference, others, images):
    cells = grid_cells(GRID, range(len(images)), SETTINGS, subject="tokens")
    rows = [ShardRow.of(cell, image) for cell, image in zip(cells, images, strict=True)]
    return score(
        "copying", rows, prompts=GRID.prompts, reference=reference, others=others, class_word="person",
        scorers=scorers,
    )  # fmt: skip


def test_copying_goes_from_another_picture_to_the_photo_itself():
    def at(degrees):
        return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])

    photo, other = at(0), at(20)[None]
    pictures = np.stack([at(0), at(20), at(10), at(-90), at(110), at(5)])
    assert copying_of(pictures, photo, other) == pytest.approx([1, -1, 0, 1, -1, 0.5])
    # Two others on both sides of the photo: a picture as far from it as they are lies beside one of them.
    assert copying_of(at(20)[None], photo, np.stack([at(20), at(-20)])) == pytest.approx([0])
    assert np.isnan(copying_of(np.full((1, 2), np.nan), photo, other)).all()
    assert copying_of(pictures, photo, photo[None]) is None


def test_the_photo_copies_itself_and_what_does_not_know_it_does_not(scorers):
    """Pictures that the metric has not seen, of the person and of somebody else, are on average at 0."""
    itself, same, stranger = [], [], []
    for seed in SEEDS:
        drawn = other_portraits(seed, 2 * OTHER_PICTURES)
        others, new = drawn[:OTHER_PICTURES], drawn[OTHER_PICTURES:]
        images = [portrait(seed), *new, *other_portraits(seed + 100, 4)]
        values = [row.value for row in copying(scorers, portrait(seed), others, images)]
        itself.append(values[0])
        same += values[1 : 1 + len(new)]
        stranger += values[1 + len(new) :]
    assert min(itself) > 0.99
    assert abs(np.mean(same)) < 0.2 and abs(np.mean(stranger)) < 0.2, (np.mean(same), np.mean(stranger))


def test_what_cannot_be_compared_has_no_copying(scorers):
    seed = SEEDS[0]
    photo, others = portrait(seed), other_portraits(seed, 2)
    empty = render_scene(Shot(scene="snow")).image
    for arguments, why in (
        ((photo, ()), "no other pictures of the person"),
        ((photo, [empty]), "no face in the other pictures"),
        ((empty, others), "no face in the reference photo"),
        ((photo, [photo, photo]), "the other pictures equal the photo"),
    ):
        (row,) = copying(scorers, *arguments, [photo])
        assert row.value is None and row.detail == why
    assert [row.detail for row in copying(scorers, photo, others, [photo, empty])] == ["", "no face"]
    with pytest.raises(ValueError, match="pass `reference`"):
        copying(scorers, None, others, [photo])


def test_a_person_is_known_by_the_photos_bytes():
    for seed in (POPULATIONS["second-held-out"][3], POPULATIONS["tuning"][0], 9001):
        assert seed_of_photo(hashlib.sha256(encode_png(portrait(seed))).hexdigest()) == seed
    changed = portrait(9001).copy()
    changed[0, 0] ^= 1
    assert seed_of_photo(hashlib.sha256(encode_png(changed)).hexdigest()) is None
    assert seed_of_name("alma amsel") == 1 and seed_of_name("nobody known") is None


def test_other_portraits_show_other_clothes_and_are_the_same_every_time():
    seed = SEEDS[1]
    first, second = other_portraits(seed, 3), other_portraits(seed, 3)
    assert all(np.array_equal(one, two) for one, two in zip(first, second, strict=True))
    assert not any(np.array_equal(each, portrait(seed)) for each in first)
    assert not np.array_equal(first[0], first[1])
