"""A small run: two rendered people, a grid of three prompts, few steps; everything else as in the real run."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from faceid_core import photos
from faceid_core.config import NightlyConfig, parse_config
from faceid_core.miniature.people import person_from_seed
from faceid_core.miniature.renderer import Shot, render, render_group, render_scene

GRID = """\
name: small
prompts:
  - {id: beach, text: "a photo of V* on the beach", category: scene, expected: {scene: beach}}
  - {id: smiling, text: "a photo of the face of V* smiling", category: attribute, expected: {attribute: smiling}}
  - {id: plain, text: "a photo of the face of V*", category: scene}
"""


def shot(**changes) -> Shot:
    """A close-up in front of a plain backdrop."""
    usual = dict(
        framing="face", scene=None, clothes="blue shirt", held=None, attributes=frozenset(),
        dx=0.0, dy=0.0, scale=1.0, backdrop_seed=5,
    )  # fmt: skip
    return Shot(**(usual | changes))


def write_photo(folder: Path, name: str, image) -> None:
    """Put one picture beside the manifest."""
    (folder / name).write_bytes(photos.encode_png(image))


@pytest.fixture(scope="module")
def prefect_server():
    """One real Prefect server for the module."""
    from prefect.testing.utilities import prefect_test_harness

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        with prefect_test_harness(server_startup_timeout=300):
            yield


def kept_by_prefect() -> str:
    """Everything that the server holds of flow runs, task runs, logs and artifacts, as one text."""
    from prefect.client.orchestration import get_client

    found = []
    with get_client(sync_client=True) as client:
        for read in (
            client.read_flow_runs,
            client.read_task_runs,
            client.read_logs,
            client.read_artifacts,
        ):
            pages: list = []
            while page := read(limit=200, offset=len(pages)):
                pages += page
            found += pages
    return " ".join(each.model_dump_json() for each in found)


@pytest.fixture
def people(tmp_path) -> Path:
    """A manifest of two people whom no model was trained on."""
    folder = tmp_path / "people"
    folder.mkdir()
    for name, seed in (("ann", 8101), ("bob", 8102)):
        write_photo(folder, f"{name}.png", render(person_from_seed(seed), shot(), size=128).image)
    write_manifest(folder, [("ann", "ann.png"), ("bob", "bob.png")])
    return folder / "identities.csv"


@pytest.fixture
def people_and_trouble(people) -> Path:
    """The same two people among photos that cannot be used."""
    folder = people.parent
    write_photo(folder, "empty.png", render_scene(shot(framing="half", scene="forest"), size=128).image)
    two = [person_from_seed(8103), person_from_seed(8104)]
    write_photo(folder, "two.png", render_group(two, shot(framing="half"), size=160).image)
    (folder / "text.png").write_bytes(b"this is not a picture")
    whole = (folder / "ann.png").read_bytes()
    (folder / "torn.png").write_bytes(whole[: len(whole) // 2])
    rows = [("ann", "ann.png"), ("empty", "empty.png"), ("two", "two.png"), ("text", "text.png")]
    write_manifest(folder, [*rows, ("torn", "torn.png"), ("gone", "gone.png"), ("bob", "bob.png")])
    return people


def write_manifest(folder: Path, rows: list[tuple[str, str]]) -> None:
    """identities.csv with these ids and photos."""
    with (folder / "identities.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["identity_id", "photo", "class_word"])
        writer.writerows((identity_id, photo, "person") for identity_id, photo in rows)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Make the configuration of a small run on any store; the identity secret is fixed."""
    monkeypatch.setenv("FACEID_IDENTITY_SECRET", "5a" * 32)
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID)

    def make(store: str, identities: Path, executor: str = "inline", **sections) -> NightlyConfig:
        data = {
            "name": "small",
            "store": store,
            "identities": str(identities),
            "personalize": {"preset": "semantic-fidelity", "slots": 2, "method": {"steps": 3, "samples_per_step": 5}},
            "generate": {"grid": str(grid), "seeds": 2, "steps": 2, "batch": 6},
            "score": {"named_people": 1},
            "execution": {"executor": executor, "threads_per_worker": 1},
        }
        for name, values in sections.items():
            data[name] = {**data.get(name, {}), **values}
        return parse_config(data)

    return make
