"""A run's rows are written portion by portion, so that memory does not grow with a run's images."""

from __future__ import annotations

import csv

import pytest

from data_contracts import NAMES, ContractError, contract
from faceid_core.config import load_config
from faceid_core.publish import publish as publication
from faceid_core.run.lookup import lookup_stage
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.stages import STAGES
from faceid_core.store import open_store
from faceid_core.tables import Tables
from tests.benchmarks.pretend_store import fill, write_config
from tests.benchmarks.scale_publication import write_records_of_pages
from tests.helpers.table_rows import run as rows_of_run


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store with every result of four people, of whom two have one photo."""
    root = tmp_path_factory.mktemp("people")
    config = write_config(root, 4)
    manifest = root / "people" / "identities.csv"
    rows = list(csv.reader(manifest.open()))
    rows[2][1] = rows[1][1]
    with manifest.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    fill(config)
    return load_config(config)


def published(config, monkeypatch, most_rows: int) -> Tables:
    """Publish a run of the filled store; the tables as they then are."""
    monkeypatch.setattr("faceid_core.publish.rows.MOST_ROWS", most_rows)
    monkeypatch.setattr(publication, "write_pages", write_records_of_pages)
    run = open_run(config, LogReporter())
    try:
        assert not [work for stage in STAGES for work in lookup_stage(run, stage)]
        run.finish()
        assert publication.publish(run).exit_status == 0
    finally:
        run.release()
    return Tables(run.store)


def test_rows_are_the_same_in_one_portion_and_in_many(filled, monkeypatch):
    def rows(tables: Tables) -> dict[str, list]:
        return {
            name: tables.query(f"FROM {name} ORDER BY ALL").to_pylist()
            for name in ("images", "image_metrics")
        }

    many = published(filled, monkeypatch, most_rows=200)
    first = rows(many)
    versions = many.catalog().versions
    assert versions["images"] > 2 and versions["image_metrics"] > 5, "a commit for each portion"
    pictures = 24 * filled.generate.seeds
    # Three photos, the class word and a named person are drawn; two ids with one photo share pictures and scores.
    assert len(first["images"]) == 5 * pictures
    people = many.query(
        "SELECT identity_key, count(*) n FROM scores WHERE run_id = (SELECT run_id FROM runs) GROUP BY 1"
    )
    assert people["n"].to_pylist() == [11 * pictures] * 4
    whole = published(filled, monkeypatch, most_rows=10**9)
    assert rows(whole) == first and whole.catalog().versions["images"] == versions["images"], (
        "nothing was added"
    )


def test_a_bad_portion_keeps_all_portions_from_being_written(tmp_path):
    tables = Tables(open_store(str(tmp_path / "store")))
    made = rows_of_run("r1", 1)
    good, bad = (
        made["images"],
        made["images"].set_column(
            made["images"].schema.get_field_index("width"),
            contract("images").schema.field("width"),
            [[-1] * made["images"].num_rows],
        ),
    )
    with pytest.raises(ContractError, match="width"):
        tables.publish("r1", made | {"images": lambda: iter([good, bad])})
    assert tables.catalog().versions == {} and not (tmp_path / "store" / "tables").exists()
    tables.publish("r1", made | {"images": lambda: iter([good.slice(0, 1), good.slice(1)])})
    assert {name: tables.read(name).num_rows for name in NAMES} == {n: t.num_rows for n, t in made.items()}
