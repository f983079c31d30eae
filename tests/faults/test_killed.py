"""A night that is killed at any write of the store goes on with the same command, and ends as if nothing had been."""

from __future__ import annotations

import numpy as np
import pytest

from faceid_core.config import NightlyConfig, parse_config
from faceid_core.miniature.people import person_from_seed
from faceid_core.miniature.renderer import Shot, render
from faceid_core.photos import encode_png
from tests.helpers.killed import KILLED, night_in_a_child

GRID = """\
name: one
prompts:
  - {id: beach, text: "a photo of V* on the beach", category: scene, expected: {scene: beach}}
"""


@pytest.fixture(scope="module")
def night_on(tmp_path_factory):
    """Make the configuration of the smallest night on a store of a given name."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "people").mkdir()
    picture = render(person_from_seed(8101), Shot(clothes="blue shirt"), size=128).image
    (folder / "people" / "ann.png").write_bytes(encode_png(picture))
    (folder / "grid.yaml").write_text(GRID)

    def make(name: str) -> NightlyConfig:
        return parse_config(
            {
                "name": "killed",
                "store": str(folder / name),
                "identities": str(folder / "people"),
                "personalize": {"slots": 1, "method": {"steps": 2, "samples_per_step": 5}},
                "generate": {"grid": str(folder / "grid.yaml"), "seeds": 1, "steps": 1, "batch": 2},
                "score": {"named_people": 0, "metrics": ["identity", "detection"]},
                "execution": {"executor": "inline", "threads_per_worker": 1, "journal_seconds": 1e-9},
            }
        )

    return make


@pytest.fixture(scope="module")
def undisturbed(night_on):
    """What a night comes to that nobody kills."""
    ended = night_in_a_child(night_on("undisturbed"))
    assert ended.exit_code == 0 and ended.report["outcomes"] == {"ann": "done"}
    return ended.report


def check(night_on, undisturbed, write: int, *, after: bool) -> None:
    """Kill a night at a write, run it again, compare with the undisturbed one."""
    config = night_on(f"store-{write}-{'after' if after else 'before'}")
    killed = night_in_a_child(config, die_at=write, after=after)
    where = f"killed {'after' if after else 'before'} write {write}"
    assert killed.exit_code == KILLED, where
    again = night_in_a_child(config).report
    assert again is not None, f"{where}: the same command does not go on"
    assert again["exit_status"] == 0 and set(again["outcomes"].values()) <= {"done", "cached"}, where
    for part in ("contents", "blobs", "summary", "pictures"):
        assert again[part] == undisturbed[part], f"{where}: {part} differ"
    assert again["index"] > 0, where


def test_killed_at_a_few_writes_the_night_goes_on(night_on, undisturbed):
    for number, write in enumerate(np.linspace(2, undisturbed["writes"] - 1, 2).astype(int)):
        check(night_on, undisturbed, int(write), after=number % 2 == 0)


@pytest.mark.exhaustive
def test_killed_at_every_write_the_night_goes_on(night_on, undisturbed):
    for write in range(1, undisturbed["writes"] + 1):
        check(night_on, undisturbed, write, after=False)
        check(night_on, undisturbed, write, after=True)
    print(f"killed {2 * undisturbed['writes']} times")
