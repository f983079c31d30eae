"""The smallest runs, for tests that run hundreds of them: rendered people, one prompt, two steps."""

from __future__ import annotations

import pytest

from faceid_core.config import NightlyConfig, parse_config
from faceid_core.miniature.people import person_from_seed
from faceid_core.miniature.renderer import Shot, render
from faceid_core.photos import encode_png
from tests.helpers.killed import night_in_a_child

GRID = """\
name: one
prompts:
  - {id: beach, text: "a photo of V* on the beach", category: scene, expected: {scene: beach}}
"""


def write_person(folder, name: str, seed: int) -> None:
    """A photo of a rendered person whom no model was trained on; 8103 to 8105 also exist."""
    picture = render(person_from_seed(seed), Shot(clothes="blue shirt"), size=128).image
    (folder / f"{name}.png").write_bytes(encode_png(picture))


@pytest.fixture(scope="session")
def night_on(tmp_path_factory):
    """Make the configuration of the smallest night on a store of a given name or S3 address."""
    folder = tmp_path_factory.mktemp("faults")
    for people in (("ann",), ("ann", "bob")):
        (folder / str(len(people))).mkdir()
        for number, name in enumerate(people):
            write_person(folder / str(len(people)), name, 8101 + number)
    (folder / "grid.yaml").write_text(GRID)

    def make(store: str, *, people: int | str = 1, **sections) -> NightlyConfig:
        data = {
            "name": "faults",
            "store": store if store.startswith("s3://") else str(folder / store),
            "identities": str(folder / str(people)),
            "personalize": {"preset": "semantic-fidelity", "slots": 1, "method": {"steps": 2, "samples_per_step": 5}},
            "generate": {"grid": str(folder / "grid.yaml"), "seeds": 1, "steps": 1, "batch": 2},
            "score": {"named_people": 0, "metrics": ["identity", "detection"]},
            "execution": {"executor": "inline", "threads_per_worker": 1, "checkpoint_seconds": 1e-9},
        }
        for name, values in sections.items():
            data[name] = {**data.get(name, {}), **values}
        return parse_config(data)

    return make


@pytest.fixture(scope="session")
def undisturbed(night_on):
    """What a run of one person comes to that meets no fault."""
    return whole(night_on("undisturbed"))


@pytest.fixture(scope="session")
def undisturbed_pair(night_on):
    """The same for two people."""
    return whole(night_on("undisturbed-pair", people=2))


def whole(config: NightlyConfig) -> dict:
    """The report of a run that must end well."""
    ended = night_in_a_child(config)
    assert ended.exit_code == 0 and set(ended.report["outcomes"].values()) == {"done"}, ended
    return ended.report
