"""faceid miniature: a sheet that shows people, a card that is measured, training that passes its arguments on."""

import io
import json

import pytest
from click.testing import CliRunner
from PIL import Image

from flows.cli import cli

GRID = """\
name: two
prompts:
  - {id: beach, text: "a photo of V* on the beach", category: scene, expected: {scene: beach}}
  - {id: white, text: "a photo of the face of V* with white hair", category: attribute,
     expected: {attribute: white hair}}
"""


def faceid(*arguments):
    return CliRunner().invoke(cli, ["miniature", *map(str, arguments)], catch_exceptions=False)


@pytest.mark.parametrize("population", ["named", "samples", "second-held-out"])
def test_a_sheet_has_a_row_for_each_person(tmp_path, population):
    heights = []
    for people in (1, 3):
        file = tmp_path / "new" / f"{people}.png"
        assert faceid("sheet", "--population", population, "--people", people, "--out", file).exit_code == 0
        heights.append(Image.open(io.BytesIO(file.read_bytes())).height)
    assert heights[1] == pytest.approx(3 * heights[0], rel=0.1)


@pytest.mark.exhaustive
def test_the_card_measures_the_ceiling_and_keeps_what_was_not_asked_for(tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID)
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"gate": {"kept": 1}}))
    asked = (
        "--figures",
        "ceiling",
        "--people",
        3,
        "--seeds",
        1,
        "--grid",
        tmp_path / "grid.yaml",
        "--out",
        card,
    )
    result = faceid("card", *asked)
    assert result.exit_code == 0, result.output
    found = json.loads(card.read_text())
    assert found["gate"] == {"kept": 1}
    ceiling = found["ceiling"]
    assert (ceiling["people"], ceiling["pictures"]) == (3, 6)
    # Six pictures of people whom the model knows: faces, and most of them the right one of a hundred.
    assert ceiling["detection"] == 1 and ceiling["rank 1 of 100"] >= 0.5
    assert set(ceiling) >= {
        "concept accuracy: scene",
        "concept accuracy: white hair",
        "concept accuracy by kind: attribute",
    }


def test_an_unknown_figure_is_named(tmp_path):
    result = faceid("card", "--figures", "gate,luck", "--out", tmp_path / "card.json")
    assert result.exit_code == 2 and "luck" in result.output and "ceiling" in result.output
    assert not (tmp_path / "card.json").exists()


@pytest.mark.exhaustive
def test_the_card_measures_names_with_the_scorers_that_report(tmp_path):
    card = tmp_path / "card.json"
    result = faceid("card", "--figures", "names, ", "--people", 2, "--out", card)
    assert result.exit_code == 0, result.output
    assert set(json.loads(card.read_text())) == {"names"}


def test_figures_that_rank_among_a_hundred_people_say_so(tmp_path):
    result = faceid("card", "--figures", "gate,names", "--people", 2, "--out", tmp_path / "card.json")
    assert result.exit_code == 2 and "gate rank a face among those of 100 people" in result.output


def test_training_says_which_parts_there_are():
    result = faceid("train", "nose")
    assert result.exit_code == 2
    assert "'nose'" in result.output and "reporting_recognizer" in result.output
