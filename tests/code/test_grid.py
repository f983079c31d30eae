"""The prompt grids: the shipped ones keep their promises, a broken one is refused with all its problems."""

import re
from collections import Counter

import pytest

from faceid_core.errors import ConfigurationError
from faceid_core.evaluate.cells import DrawSettings, cell_digest, grid_cells
from faceid_core.evaluate.grid import load_grid, parse_grid
from faceid_core.miniature import captions, concepts
from faceid_core.miniature.renderer import Shot

SETTINGS = DrawSettings(
    base="b" * 64, sampler="DDIM", steps=25, guidance_scale=4, precision="float32", version=1
)
PHRASES = {
    "scene": captions.SCENE_PHRASES,
    "attribute": captions.ATTRIBUTE_PHRASES,
    "action": captions.OBJECT_PHRASES,
    "clothing": captions.CLOTHES_PHRASES,
}


def _refusal(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse_grid(text, source="my.yaml")
    return str(caught.value)


def test_the_miniature_grid_has_24_prompts_in_five_categories():
    grid = load_grid()
    assert grid.name == "miniature" and len(grid.prompts) >= 24
    counts = Counter(prompt.category for prompt in grid.prompts)
    assert set(counts) == {"scene", "attribute", "action", "clothing", "mixed"}
    assert min(counts.values()) >= 4


def test_half_the_laboratory_is_every_second_prompt_in_its_order():
    whole, half = load_grid("laboratory"), load_grid("laboratory-half")
    assert half.prompts == whole.prompts[::2] and len(half.prompts) == 20
    assert {prompt.category for prompt in half.prompts} == {prompt.category for prompt in whole.prompts}


def test_the_laboratory_asks_in_half_figure_and_for_up_to_five_things():
    grid = load_grid("laboratory")
    assert grid.name == "laboratory" and 32 <= len(grid.prompts) <= 40
    asked = {prompt.id: sum(len(names) for names in prompt.expected.values()) for prompt in grid.prompts}
    of_category = {
        category: [prompt for prompt in grid.prompts if prompt.category == category]
        for category in ("plain", "scene", "attribute", "action", "clothing", "pair", "mixed")
    }
    assert all(of_category.values()) and sum(map(len, of_category.values())) == len(grid.prompts)
    assert {asked[prompt.id] for prompt in of_category["plain"]} == {0}
    assert {asked[prompt.id] for prompt in of_category["pair"]} == {2}
    assert {asked[prompt.id] for prompt in of_category["mixed"]} == {3, 4, 5}
    half = [prompt for prompt in grid.prompts if "face" not in prompt.text]
    assert {"eyes closed", "mouth open", "smiling", "glasses", "hat", "white hair"} <= {
        name for prompt in half for name in prompt.expected.get("attribute", ())
    }, "small faces are harder"
    # What is not asked for may leak: most prompts say nothing of clothes, and the rest ask for other clothes.
    sample_clothes = {"blue shirt", "striped shirt"}
    assert not sample_clothes & {
        name for prompt in grid.prompts for name in prompt.expected.get("clothing", ())
    }
    assert sum("clothing" not in prompt.expected for prompt in grid.prompts) > len(grid.prompts) / 2


@pytest.mark.parametrize("grid", ["miniature", "laboratory"])
def test_miniature_prompts_say_what_they_expect_and_nothing_else(grid):
    for prompt in load_grid(grid).prompts:
        said = {
            (kind, name)
            for kind, phrases in PHRASES.items()
            for name, phrase in phrases.items()
            if re.search(rf"\b{phrase}\b", prompt.text)
        }
        expected = {(kind, name) for kind, names in prompt.expected.items() for name in names}
        assert said == expected, prompt.id
        several = prompt.category in ("pair", "mixed")
        assert several == (len(expected) > 1), prompt.id
        if not several:
            assert set(prompt.expected) == {prompt.category} - {"plain"}, prompt.id


@pytest.mark.parametrize("grid", ["miniature", "laboratory"])
def test_the_miniature_knows_every_word_of_its_prompts(grid):
    known = set()
    for framing in concepts.FRAMINGS:
        known |= set(captions.caption(Shot(framing=framing), "V*").replace(",", "").split())
        known |= {word for opening in captions.OPENINGS[framing] for word in opening.format("V*").split()}
    for phrases in PHRASES.values():
        known |= {word for phrase in phrases.values() for word in phrase.split()}
    for prompt in load_grid(grid).prompts:
        assert set(prompt.text.replace(",", "").split()) <= known, prompt.id


@pytest.mark.parametrize("grid", ["miniature", "laboratory"])
def test_the_grid_asks_for_every_scene_attribute_and_object(grid):
    asked = {
        (kind, name)
        for prompt in load_grid(grid).prompts
        for kind, names in prompt.expected.items()
        for name in names
    }
    for kind, names in (
        ("scene", concepts.SCENES),
        ("attribute", concepts.ATTRIBUTES),
        ("action", concepts.OBJECTS),
    ):
        assert {(kind, name) for name in names} <= asked


def test_the_photographs_grid_expects_nothing():
    grid = load_grid("photographs")
    assert len(grid.prompts) >= 24
    assert {prompt.category for prompt in grid.prompts} == {
        *("scene", "attribute", "action", "clothing", "mixed", "style"),
    }
    assert all(not prompt.expected for prompt in grid.prompts)


def test_all_problems_are_listed_at_once():
    message = _refusal(
        """
name: mine
prompts:
  - {id: A B, text: a photo of V* here, category: scene}
  - {id: twice, text: a photo of V*, category: scene}
  - {id: twice, text: V* and V*, category: scene, expected: {scene: []}}
  - {id: none, text: a photo of a beach, category: scene}
  - {id: glued, text: a photo of V*x, category: scene}
"""
    )
    assert message.startswith("my.yaml has 6 problem(s)")
    for part in (
        "'A B': the id",
        "'V* and V*' must hold V* exactly once",
        "a photo of a beach",
        "V*x",
        "'twice' appears 2 times",
        "expected scene names nothing",
    ):
        assert part in message


def test_two_prompts_of_one_text_are_refused_since_their_images_would_be_one():
    message = _refusal(
        """
name: mine
prompts:
  - {id: plain, text: a photo of V*, category: scene}
  - {id: again, text: a photo of V*, category: attribute}
  - {id: other, text: a picture of V*, category: scene}
"""
    )
    assert "prompts 'plain' and 'again' have the same text" in message and "other" not in message


def test_unknown_keys_and_categories_name_the_prompt():
    message = _refusal(
        "name: mine\nsize: 3\nprompts:\n"
        "  - {id: one, text: a V*, category: scenery}\n"
        "  - {id: two, text: a V*, category: scene, expect: {}}\n"
    )
    assert "size: unknown key" in message
    assert "prompt 'one': category: Input should be 'plain', 'scene'" in message
    assert "prompt 'two': expect: unknown key" in message


@pytest.mark.parametrize(
    "text",
    ["", "- a\n- b\n", "{", "name: x\nprompts: []\n", "name: x\nprompts: [3]\n", "name: x\nprompts: 3\n"],
)
def test_what_is_no_grid_is_refused(text):
    assert "my.yaml" in _refusal(text)


def test_an_absent_file_is_refused_with_the_standard_names(tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"one of: miniature, laboratory, laboratory-half, photographs"
    ):
        load_grid(tmp_path / "absent.yaml")


def test_layout_of_the_file_does_not_change_the_digest():
    flow = parse_grid(
        "{name: x, prompts: [{id: a, text: a V*, category: scene, expected: {scene: [beach]}}]}", source="x"
    )
    block = parse_grid(
        "# 1\nname: other\nprompts:\n- category: scene\n  text: a V*\n  id: a\n  expected: {scene: beach}",
        source="y",
    )
    assert flow.digest == block.digest
    other = parse_grid("{name: x, prompts: [{id: a, text: an V*, category: scene}]}", source="x")
    assert other.digest != flow.digest


def test_subject_replaces_the_placeholder():
    prompt = next(prompt for prompt in load_grid().prompts if prompt.id == "scene-beach")
    assert prompt.for_subject("a woman") == "a photo of a woman on the beach"
    # A subject is plain text, whatever it looks like to a regular expression.
    assert prompt.for_subject(r"\1") == r"a photo of \1 on the beach"


def test_a_cell_is_settled_by_what_changes_the_picture():
    base = cell_digest(SETTINGS, subject="person", prompt="a V*", seed=0)
    # Golden: a refactoring that changes it would redraw every picture of every store.
    assert base == "24c8e9fbc30200a9d5bfcf68ede75c8a86f6ce8219c5f431acc11366bdfe4561"
    others = {
        cell_digest(SETTINGS, subject="woman", prompt="a V*", seed=0),
        cell_digest(SETTINGS, subject="person", prompt="an V*", seed=0),
        cell_digest(SETTINGS, subject="person", prompt="a V*", seed=1),
    }
    for name, value in (
        ("base", "c"),
        ("sampler", "Euler"),
        ("steps", 26),
        ("guidance_scale", 4.5),
        ("precision", "float16"),
        ("version", 2),
        ("size", (64, 96)),
        ("size", (96, 64)),
    ):
        changed = DrawSettings(**{**SETTINGS.__dict__, name: value})
        others.add(cell_digest(changed, subject="person", prompt="a V*", seed=0))
    assert len(others | {base}) == 12
    same = DrawSettings(**{**SETTINGS.__dict__, "guidance_scale": 4.0})
    assert cell_digest(same, subject="person", prompt="a V*", seed=0) == base


def test_cells_of_a_grid_are_all_different():
    grid = load_grid()
    cells = grid_cells(grid, (0, 1, 2, 3), SETTINGS, subject="person")
    assert len(cells) == len({cell.digest for cell in cells}) == 4 * len(grid.prompts)
    assert [cell.seed for cell in cells[:5]] == [0, 1, 2, 3, 0]
