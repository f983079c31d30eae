"""Leakage on pictures whose truth is known: what the photo's shot brings back, other shots bring by chance only."""

from dataclasses import replace

import numpy as np
import pytest

from faceid_core.evaluate.attributes import asks_for_age
from faceid_core.evaluate.cells import DrawSettings, grid_cells
from faceid_core.evaluate.grid import parse_grid
from faceid_core.evaluate.leakage import _CLOSE_UP_WORDS, PARTS
from faceid_core.evaluate.metrics import read_scores, score, write_scores
from faceid_core.evaluate.pictures import Pictures
from faceid_core.evaluate.scorers import load_scorers
from faceid_core.evaluate.shards import ShardRow
from faceid_core.miniature.people import HELD_OUT_SEEDS, person_from_seed
from faceid_core.miniature.renderer import Shot, render, render_scene, sample_shot

SETTINGS = DrawSettings(base="b", sampler="x", steps=1, guidance_scale=1.0, precision="float32", version=1)
GRID = parse_grid(
    """
name: test
prompts:
  - {id: free, text: a photo of V*, category: scene}
  - {id: face, text: a photo of the face of V*, category: scene}
  - {id: shirt, text: a photo of V* wearing a blue shirt, category: clothing, expected: {clothing: blue shirt}}
  - {id: suit, text: a photo of V* wearing a black suit, category: clothing, expected: {clothing: black suit}}
  - {id: beach, text: a photo of V* on the beach, category: scene, expected: {scene: beach}}
""",
    source="test",
)
SEEDS = HELD_OUT_SEEDS[300:310]


def photo_shot(seed):
    return Shot(clothes="blue shirt", backdrop_seed=seed)


def photo_of(seed):
    return render(person_from_seed(seed), photo_shot(seed)).image


@pytest.fixture(scope="module")
def scorers():
    return load_scorers("miniature")


def measured(scorers, seed, images, *, prompt="free", reference=None):
    """Metric rows of pictures that were all drawn for one prompt, by name of the part."""
    grid = replace(GRID, prompts=tuple(p for p in GRID.prompts if p.id == prompt))
    cells = grid_cells(grid, range(len(images)), SETTINGS, subject="tokens")
    rows = [ShardRow.of(cell, image) for cell, image in zip(cells, images, strict=True)]
    reference = photo_of(seed) if reference is None else reference
    found = score(
        "leakage", rows, prompts=grid.prompts, reference=reference, class_word="person", scorers=scorers
    )
    assert [row.metric for row in found[:5]] == ["leakage", *(f"leakage:{part}" for part in PARTS)]
    return {
        name: [row for row in found if row.metric == name]
        for name in ("leakage", *(f"leakage:{part}" for part in PARTS))
    }


def rates(scorers, shots_of, **options):
    """Share of pictures in which each part came back, over all people."""
    values = {}
    for seed in SEEDS:
        images = [render(person_from_seed(seed), shot).image for shot in shots_of(seed)]
        for name, rows in measured(scorers, seed, images, **options).items():
            values.setdefault(name, []).extend(row.value for row in rows)
    return {
        name: float(np.mean([v for v in found if v is not None])) if found != [None] * len(found) else None
        for name, found in values.items()
    }


def test_the_photos_own_shot_leaks_everything(scorers):
    faces = (frozenset(), frozenset({"eyes closed"}), frozenset({"smiling"}), frozenset({"mouth open"}))
    found = rates(
        scorers, lambda seed: [replace(photo_shot(seed), attributes=attributes) for attributes in faces]
    )
    assert min(found.values()) >= 0.9, found


def test_other_shots_leak_by_chance_only(scorers):
    """Half figures of the training distribution: a shirt in eight, hardly a wall, no close-up."""
    rng = np.random.default_rng(7)
    found = rates(scorers, lambda seed: [sample_shot(rng, framing="half") for _ in range(8)])
    assert 0.05 < found["leakage:clothes"] < 0.25
    assert found["leakage:background"] < 0.06
    assert found["leakage:framing"] == found["leakage:position"] == 0
    assert found["leakage"] < 0.08


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("clothes", {"clothes": "yellow jacket"}),
        ("background", {"scene": "desert"}),
        ("framing", {"framing": "half"}),
        ("position", {"dx": 0.05}),
    ],
)
def test_a_part_that_does_not_come_back_is_told_from_the_others(scorers, part, changed):
    found = rates(scorers, lambda seed: [replace(photo_shot(seed), **changed)])
    kept = {"clothes", "background", "framing", "position"} - {part}
    if part == "framing":
        kept -= {"position"}  # a half figure's face lies higher
    assert found[f"leakage:{part}"] <= 0.1, found
    assert min(found[f"leakage:{name}"] for name in kept) >= 0.9, found


def test_a_wall_of_another_color_is_not_the_photos(scorers):
    found = rates(
        scorers, lambda seed: [Shot(framing="half", backdrop_seed=seed + k) for k in (0, 11, 12, 13)]
    )
    assert 0.25 <= found["leakage:background"] <= 0.4


def test_what_the_prompt_asks_for_is_no_leak(scorers):
    seed = SEEDS[0]
    images = [photo_of(seed)]
    close = measured(scorers, seed, images, prompt="face")
    assert (close["leakage:framing"][0].value, close["leakage:framing"][0].detail) == (
        None,
        "the prompt asks for a close-up",
    )
    assert _CLOSE_UP_WORDS.search("Portrait of V*") and asks_for_age("An Old V*"), "as CLIP reads them"
    asked = measured(scorers, seed, images, prompt="shirt")["leakage:clothes"][0]
    assert (asked.value, asked.detail) == (None, "the prompt asks for the photo's clothes")
    other = measured(scorers, seed, images, prompt="suit")
    assert (other["leakage:clothes"][0].value, other["leakage:clothes"][0].detail) == (1.0, "blue shirt")
    assert other["leakage"][0].detail == "clothes, background, framing, position"
    on_the_beach = render(person_from_seed(seed), replace(photo_shot(seed), scene="beach")).image
    beach = measured(scorers, seed, [on_the_beach], prompt="beach", reference=on_the_beach)
    assert (beach["leakage:background"][0].value, beach["leakage:background"][0].detail) == (
        None,
        "the prompt asks for the photo's scene",
    )
    # The mean is over what can be measured.
    assert beach["leakage"][0].value == 1.0 and close["leakage"][0].value == 1.0


def test_without_a_face_only_the_clothes_can_be_judged(scorers):
    empty = render_scene(Shot(scene="snow")).image
    found = measured(scorers, SEEDS[0], [empty])
    reasons = {name: rows[0].detail for name, rows in found.items() if rows[0].value is None}
    assert reasons == {
        "leakage:background": "no face with eyes",
        "leakage:framing": "no face",
        "leakage:position": "no face",
    }
    faceless = measured(scorers, SEEDS[0], [photo_of(SEEDS[0])], reference=empty)
    assert faceless["leakage:framing"][0].detail == "no face in the photo"
    assert faceless["leakage:background"][0].detail == "no face with eyes in the photo"


def test_photographs_have_no_namer_and_are_judged_by_the_rest(scorers):
    seed = SEEDS[1]
    mute = replace(scorers, namer=None)
    large = render(person_from_seed(seed), photo_shot(seed), size=160).image
    found = measured(mute, seed, [large])
    assert found["leakage:clothes"][0].detail == "no scorer names clothes"
    assert [found[f"leakage:{part}"][0].value for part in PARTS[1:]] == [1, 1, 1]
    assert found["leakage"][0].value == 1
    empty = measured(mute, seed, [render_scene(Shot(scene="snow")).image])["leakage"][0]
    assert (empty.value, empty.detail) == (None, "nothing can be compared")


def test_pictures_are_looked_at_once_for_many_photos(scorers):
    class Counting:
        name = version = "counting"

        def __init__(self):
            self.named = 0

        def concepts(self, images):
            self.named += len(images)
            return scorers.namer.concepts(images)

    counting = Counting()
    cells = grid_cells(GRID, range(1), SETTINGS, subject="person")
    rows = [ShardRow.of(cell, photo_of(SEEDS[0])) for cell in cells]
    pictures = Pictures(rows, replace(scorers, namer=counting))
    for seed in SEEDS[:3]:
        score(
            "leakage",
            pictures,
            prompts=GRID.prompts,
            reference=photo_of(seed),
            class_word="person",
            scorers=pictures.scorers,
        )
    assert counting.named == len(rows) + 3
    with pytest.raises(ValueError, match="leakage metric compares with a reference photo"):
        score("leakage", pictures, prompts=GRID.prompts, class_word="person", scorers=pictures.scorers)


def test_rows_come_back_from_their_file(scorers):
    found = measured(scorers, SEEDS[0], [photo_of(SEEDS[0])])
    rows = [row for of in found.values() for row in of]
    assert read_scores(write_scores(rows)) == rows
