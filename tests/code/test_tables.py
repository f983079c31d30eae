"""The tables on both stores: a run appears whole or not at all, twice is once, anybody can read them."""

import json
import warnings
from concurrent.futures import ThreadPoolExecutor

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from data_contracts import NAMES, ContractError, contract
from data_contracts import contract as contract_module
from faceid_core.errors import StoreError
from faceid_core.tables import Tables, catalog, query, write
from faceid_core.tables.compaction import merge, mergeable
from faceid_core.tables.query import MOST_SMALL_FILES
from faceid_core.tables.storage import storage_options
from faceid_core.upkeep.tables import compact
from tests.helpers.table_rows import digest, image_row, metric_row, person_key, run

NIGHT = (
    "select o.identity_id, count(*) as pictures, count(m.value) as faces, avg(m.value) as similarity "
    "from identity_outcomes o join images i using (generate_key) "
    "join image_metrics m on (m.generate_key, m.prompt_id, m.seed) = (i.generate_key, i.prompt_id, i.seed) "
    "join stage_results s on (s.run_id, s.identity_key, s.stage_key) = (o.run_id, o.identity_key, m.score_key) "
    "where o.run_id = '{run}' group by all order by all"
)


@pytest.fixture
def tables(any_store):
    return Tables(any_store)


def delta(store, name, version=None):
    """The Delta table as a stranger would open it."""
    if store.url.startswith("s3://"):
        return DeltaTable(f"{store.url}/tables/{name}/v2", version, storage_options(store))
    return DeltaTable(store.root / "tables" / name / "v2", version)


def counts(tables):
    return {name: tables.read(name).num_rows for name in NAMES}


def test_before_the_first_run_every_table_is_empty_and_has_its_columns(tables):
    assert tables.catalog().versions == {}
    for name in NAMES:
        assert tables.query(f"select * from {name}").column_names == contract(name).schema.names
        assert tables.read(name).num_rows == 0


def test_a_run_is_read_back_as_it_was_published(tables):
    made = run("r1", 1)
    shown = tables.publish("r1", made)
    assert (shown.run_id, shown.sequence, set(shown.versions)) == ("r1", 1, set(NAMES))
    for name in NAMES:
        order = [(column, "ascending") for column in contract(name).primary_key]
        assert tables.read(name).sort_by(order).equals(made[name].sort_by(order))
    assert tables.query(NIGHT.format(run="r1")).to_pylist() == [
        {"identity_id": f"person-{n}", "pictures": 2, "faces": 1, "similarity": 0.25} for n in range(2)
    ]


def test_publishing_again_changes_nothing(tables, any_store):
    tables.publish("r1", run("r1", 1))
    listed = {info.name: info.size for info in any_store.list("")}
    first = tables.catalog()
    assert tables.publish("r1", run("r1", 1)) == first == tables.catalog()
    assert {info.name: info.size for info in any_store.list("")} == listed


def test_a_retried_run_replaces_its_own_rows_and_nobody_elses(tables):
    tables.publish("r1", run("r1", 1))
    tables.publish("r2", run("r2", 2))
    retried = run("r1", 1)
    retried["identity_outcomes"] = retried["identity_outcomes"].set_column(
        retried["identity_outcomes"].schema.get_field_index("seconds"), "seconds", pa.array([9.0, 9.0])
    )
    pictures = counts(tables)["images"]
    tables.publish("r1", retried)
    said = tables.query("select run_id, seconds, count(*) n from identity_outcomes group by all order by all")
    assert said.to_pylist() == [
        {"run_id": "r1", "seconds": 9.0, "n": 2},
        {"run_id": "r2", "seconds": 1.5, "n": 2},
    ]
    assert counts(tables)["images"] == pictures


def test_pictures_are_written_once_whatever_run_came_first(folder_store):
    tables = Tables(folder_store)
    tables.publish("r1", run("r1", 1, people=2))
    tables.publish("r2", run("r2", 2, people=3))
    assert counts(tables) == {
        "runs": 2,
        "identity_outcomes": 5,
        "images": 6,
        "image_metrics": 6,
        "identity_summary": 5,
    }
    days = tables.query(
        "select day(run_date) d, count(*) n from images group by all order by all"
    ).to_pylist()
    assert days == [{"d": 1, "n": 4}, {"d": 2, "n": 2}]
    assert tables.query(NIGHT.format(run="r2")).num_rows == 3


def test_a_metric_scored_anew_adds_rows_beside_the_old(folder_store):
    tables = Tables(folder_store)
    tables.publish("r1", run("r1", 1))
    again = metric_row(2, 0, 0, 0.75) | {"score_key": digest("score", "again"), "metric_version": 2}
    tables.publish("r2", {"image_metrics": contract("image_metrics").table([again])})
    values = tables.query(
        "select metric_version v, value from image_metrics where seed = 0 order by all"
    ).to_pylist()
    assert values == [{"v": 1, "value": 0.25}, {"v": 1, "value": 0.25}, {"v": 2, "value": 0.75}]


def test_a_metric_computed_again_with_other_values_replaces_its_rows_and_no_others(tables):
    tables.publish("r1", run("r1", 1))
    assert tables.catalog() == tables.publish("r1", run("r1", 1)), "the same values change nothing"
    forced = [metric_row(2, 0, 0, 0.75), metric_row(2, 0, 1, 0.5), metric_row(2, 1, 0, 0.25)]
    tables.publish("r2", run("r2", 2) | {"image_metrics": contract("image_metrics").table(forced)})
    rows = tables.query("select day(run_date) d, score_key, seed, value from image_metrics").to_pylist()
    values = {(row["score_key"], row["seed"]): (row["d"], row["value"]) for row in rows}
    assert len(rows) == 4
    assert [values[digest("score", 0), seed] for seed in (0, 1)] == [(2, 0.75), (2, 0.5)]
    assert [values[digest("score", 1), seed] for seed in (0, 1)] == [(1, 0.25), (1, None)]


@pytest.mark.parametrize("dies_at", ["image_metrics", "runs", "catalog"])
def test_a_run_that_dies_while_publishing_is_not_seen_until_it_is_published(
    folder_store, monkeypatch, dies_at
):
    tables = Tables(folder_store)
    tables.publish("r1", run("r1", 1))
    before = counts(tables)

    def die(*_):
        raise StoreError("killed here")

    real = write.write_deltalake
    if dies_at == "catalog":
        monkeypatch.setattr(query, "advance", die)
    else:

        def commit(delta, *rows, **how):
            return die() if f"/{dies_at}/" in delta.table_uri else real(delta, *rows, **how)

        monkeypatch.setattr(write, "write_deltalake", commit)
    with pytest.raises(StoreError, match="killed here"):
        tables.publish("r2", run("r2", 2, people=3))
    monkeypatch.undo()
    assert counts(tables) == before

    # Another run moves the catalog past the dead one's rows: still no part of it is seen without the rest.
    tables.publish("r3", run("r3", 3, people=1))
    seen = {
        name: tables.query(f"select distinct run_id from {name} order by all")["run_id"].to_pylist()
        for name in ("runs", "identity_outcomes", "identity_summary")
    }
    assert seen["identity_outcomes"] == seen["identity_summary"] == seen["runs"]
    assert ("r2" in seen["runs"]) == (dies_at == "catalog")

    tables.publish("r2", run("r2", 2, people=3))
    assert counts(tables)["identity_outcomes"] == 2 + 3 + 1
    assert tables.query(NIGHT.format(run="r2")).num_rows == 3


def test_four_runs_at_once_lose_nothing_and_double_nothing(folder_store):
    def publish(number):
        Tables(folder_store).publish(f"r{number}", run(f"r{number}", number, people=4))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(publish, range(1, 5)))
    found = counts(Tables(folder_store))
    assert found == {
        "runs": 4,
        "identity_outcomes": 16,
        "images": 8,
        "image_metrics": 8,
        "identity_summary": 16,
    }


def test_readers_see_the_catalogd_version_only(folder_store):
    tables = Tables(folder_store)
    tables.publish("r1", run("r1", 1))
    assert write.DeltaPlace(folder_store).append("images", contract("images").table([image_row(2, 7, 0)])) == 1
    assert delta(folder_store, "images").to_pyarrow_table().num_rows == 5
    assert tables.read("images").num_rows == 4 == tables.query("select * from images").num_rows


def test_pandas_polars_and_duckdb_read_the_delta_tables_without_us(tables, any_store):
    tables.publish("r1", run("r1", 1))
    table = delta(any_store, "image_metrics")
    by_pandas = table.to_pandas()
    assert by_pandas["value"].isna().sum() == 2 and by_pandas["value"].sum() == 0.5
    by_polars = pl.read_delta(table)
    assert by_polars.filter(pl.col("value").is_null()).height == 2 and by_polars["seed"].sum() == 2
    reader = duckdb.connect()
    reader.register("m", table.to_pyarrow_dataset())
    assert reader.sql("select count(*), sum(value) from m").fetchall() == [(4, 0.5)]
    outcomes = pl.read_delta(delta(any_store, "identity_outcomes"))
    assert sorted(outcomes["identity_key"].to_list()) == [person_key(0), person_key(1)]


def test_export_writes_plain_parquet(folder_store, tmp_path):
    tables = Tables(folder_store)
    tables.publish("r1", run("r1", 1))
    files = tables.export(tmp_path / "out")
    assert [file.name for file in files] == [f"{name}.parquet" for name in NAMES]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(file.name for file in files)
    assert pq.read_table(files[0])["run_id"].to_pylist() == ["r1"]
    assert pd.read_parquet(files[1])["identity_id"].tolist() == ["person-0", "person-1"]
    assert duckdb.sql(f"select sum(seed) from '{files[2]}'").fetchall() == [(2,)]


def test_tables_lie_where_the_layout_says(folder_store):
    Tables(folder_store).publish("r1", run("r1", 1))
    folder = folder_store.root / "tables" / "identity_outcomes" / "v2"
    assert list(folder.glob("*.parquet")) and delta(folder_store, "runs").metadata().name == "runs"
    named = json.loads(folder_store.get("catalog/current.json"))["tables"]["runs"]
    assert named == {"folder": "tables/runs/v2", "version": 1}


def test_a_bad_table_stops_a_run_before_anything_is_written(folder_store):
    tables, bad = Tables(folder_store), run("r1", 1)
    bad["identity_summary"] = bad["identity_summary"].drop_columns(["images"])
    with pytest.raises(ContractError, match="column images is missing"):
        tables.publish("r1", bad)
    with pytest.raises(ContractError, match="rows of run r1 among those of run r2"):
        tables.publish("r2", run("r1", 1))
    with pytest.raises(ContractError, match="no row of its own"):
        tables.publish("r1", {"identity_outcomes": run("r1", 1)["identity_outcomes"]})
    assert not list(folder_store.list("tables/"))


def test_a_column_that_came_later_is_null_in_older_rows(folder_store, monkeypatch):
    Tables(folder_store).publish("r1", run("r1", 1))
    old = contract("images")
    wider = old.schema.append(pa.field("note", pa.string()))
    properties = [*old.document["schema"][0]["properties"], {"name": "note", "physicalType": "string"}]
    newer = type(old)(
        old.name, "2.1.0", wider, old.primary_key, old.partition, {"schema": [{"properties": properties}]}
    )

    def newer_contract(name):
        return newer if name == "images" else contract_module(name)

    for module in (write, catalog, query):
        monkeypatch.setattr(module, "contract", newer_contract)
    tables = Tables(folder_store)
    assert tables.query("select note from images")["note"].to_pylist() == [None] * 4
    tables.publish("r2", {"images": newer.table([image_row(2, 9, 0) | {"note": "new"}])})
    assert tables.query("select note from images order by note")["note"].to_pylist() == ["new", *[None] * 4]
    monkeypatch.undo()
    assert Tables(folder_store).read("images").column_names == old.schema.names


@pytest.mark.parametrize("read", ["Comparison", "_same_rows"])
def test_a_read_that_fails_while_rows_are_added_is_the_storages_failure(folder_store, monkeypatch, read):
    """The flow tries again after a StoreError; anything else it takes for a bug."""
    tables = Tables(folder_store)
    tables.publish("r1", run("r1", 1, people=1))

    def refuses(*_):
        raise OSError("connection reset")

    monkeypatch.setattr(write, read, refuses)
    with pytest.raises(StoreError, match="connection reset"):
        tables.publish("r1", run("r1", 1, people=1))


def test_a_damaged_catalog_or_a_lost_file_is_a_clear_error(folder_store):
    tables = Tables(folder_store)
    tables.publish("r1", run("r1", 1))
    next((folder_store.root / "tables/images/v2").glob("*.parquet")).unlink()
    with pytest.raises(StoreError, match=r"cannot read table images .*restore its files"):
        tables.read("images")
    folder_store.replace_if_match(
        "catalog/current.json", b"{}", folder_store.head("catalog/current.json").etag
    )
    with pytest.raises(StoreError, match=r"catalog/current.json .*publish a run again"):
        tables.catalog()


def test_a_query_warns_of_nothing_and_says_what_is_wrong_with_its_sql(folder_store):
    tables = Tables(folder_store)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert tables.query("select 1 as one")["one"].to_pylist() == [1]
    with pytest.raises(duckdb.Error, match="no_such_table"):
        tables.query("select * from no_such_table")


def test_small_nights_are_merged_and_a_later_night_adds_to_them(folder_store):
    tables = Tables(folder_store)
    for number in range(1, 10):
        tables.publish(f"r{number}", run(f"r{number}", number, people=number))
    files = {name: len(delta(folder_store, name).file_uris()) for name in NAMES}
    assert sum(files.values()) < 20 and max(files.values()) <= MOST_SMALL_FILES, files
    assert counts(tables) == {
        "runs": 9,
        "identity_outcomes": 45,
        "images": 18,
        "image_metrics": 18,
        "identity_summary": 45,
    }
    assert compact(folder_store) > 0
    assert {len(delta(folder_store, name).file_uris()) for name in NAMES} == {1}
    before = tables.catalog()
    assert compact(folder_store) == 0 and tables.catalog() == before
    assert tables.publish("r9", run("r9", 9, people=9)) == before, "publishing again changes nothing"
    tables.publish("r10", run("r10", 10, people=10))
    assert counts(tables)["images"] == 20


def test_a_query_opens_the_tables_that_it_names_and_no_others(folder_store, monkeypatch):
    tables = Tables(folder_store)
    tables.publish("r1", run("r1", 1))
    opened = []
    real = write.DeltaPlace.open

    def note(self, name, *rest, **more):
        opened.append(name)
        return real(self, name, *rest, **more)

    monkeypatch.setattr(write.DeltaPlace, "open", note)
    assert tables.query("select count(*) as n from images")["n"].to_pylist() == [4]
    assert set(opened) <= {"images", "runs"}
    opened.clear()
    assert tables.query("select 1 as n").num_rows == 1 and opened == []
    assert len(tables.query("show tables")) > len(NAMES) and set(opened) == set(NAMES)


def test_the_files_of_the_tables_can_be_read_under_the_lock_and_not_written(folder_store):
    tables = Tables(folder_store)
    tables.publish("r1", run("r1", 1))
    (file,) = (folder_store.root / "tables/runs/v2").glob("*.parquet")
    before = file.read_bytes()
    with tables.connect() as connection:
        for target in (f"faceid://runs/{file.name}", "faceid://runs/new.parquet", str(file)):
            with pytest.raises((duckdb.Error, PermissionError)):
                connection.execute(f"copy (select 1 as one) to '{target}' (format parquet)")
        for path in ("faceid://runs/../../../store.json", "faceid://runs/_delta_log/*", "faceid://*"):
            with pytest.raises(duckdb.Error):
                connection.execute(f"select * from read_parquet('{path}')").fetchall()
    assert file.read_bytes() == before and tables.read("runs").num_rows == 1


def test_latest_views_answer_for_the_latest_run_and_the_last_complete_one_of_its_name(folder_store):
    tables = Tables(folder_store)
    for number, name, status in ((1, "nightly", 0), (2, "other", 0), (3, "nightly", 2), (4, "nightly", 0)):
        made = run(f"r{number}", number)
        row = made["runs"].to_pylist()[0] | {"name": name, "exit_status": status}
        tables.publish(f"r{number}", made | {"runs": contract("runs").table([row])})
    assert tables.query("select distinct run_id from latest")["run_id"].to_pylist() == ["r4"]
    two = tables.query("select distinct which, run_id from latest_two order by all").to_pylist()
    assert two == [{"which": "latest", "run_id": "r4"}, {"which": "previous", "run_id": "r1"}]
    by_run = tables.query("select run_id, people, identity_similarity from by_run order by all").to_pylist()
    assert [row["run_id"] for row in by_run] == ["r1", "r2", "r3", "r4"]
    assert all(row["people"] == 2 and row["identity_similarity"] == 0.5 for row in by_run)


def test_exports_name_the_contract_that_their_rows_keep(folder_store, tmp_path):
    Tables(folder_store).publish("r1", run("r1", 1))
    for file in Tables(folder_store).export(tmp_path):
        said = pq.read_schema(file).metadata
        assert said[b"faceid.contract"] == f"{file.stem} {contract(file.stem).version}".encode()
        assert said[b"faceid.contract_sha256"] == contract(file.stem).digest.encode()


def test_the_compaction_after_a_write_opens_no_table_again(folder_store, monkeypatch):
    tables, opened, real = Tables(folder_store), [], write.DeltaPlace.open
    tables.publish("r1", run("r1", 1))

    def counted(place, name, *more, **named):
        opened.append(name)
        return real(place, name, *more, **named)

    monkeypatch.setattr(write.DeltaPlace, "open", counted)
    tables.publish("r2", run("r2", 2, people=3))
    # Each is opened for the write, after the commit, and by the catalog.
    assert {name: opened.count(name) for name in NAMES} == dict.fromkeys(NAMES, 3)


def test_a_compaction_lands_on_the_version_that_it_read_or_not_at_all(folder_store):
    """Beside another compaction, an append and an erasure: whatever is second would bring rows twice, or back."""
    tables, place = Tables(folder_store), write.DeltaPlace(folder_store)
    for number in range(1, 4):
        tables.publish(f"r{number}", run(f"r{number}", number))
    rows = contract("runs").table([run("r4", 4)["runs"].to_pylist()[0]])
    others = {
        "compaction": lambda: place.compact("runs", target_bytes=1 << 20),
        "append": lambda: place.append("runs", rows),
        "erasure": lambda: place.open("runs").delete("run_id = 'r2'"),
    }
    for number, (name, other) in enumerate(others.items()):
        if number:
            place.append("runs", contract("runs").table([run(f"s{number}", 9)["runs"].to_pylist()[0]]))
        early = place.open("runs")
        groups = mergeable(write.file_sizes(early), 1 << 20, 2)
        assert groups, name
        other()
        before = place.open("runs").version()
        with pytest.raises(CommitFailedError):
            merge(early, groups, {}, lambda file, data: folder_store.put_if_absent(f"tables/runs/v2/{file}", data))
        assert place.open("runs").version() == before
    found = place.open("runs").to_pyarrow_table()["run_id"].to_pylist()
    assert sorted(found) == ["r1", "r3", "r4", "s1", "s2"]


def test_a_compaction_keeps_every_row_and_value(folder_store):
    tables = Tables(folder_store)
    for number in range(1, 5):
        tables.publish(f"r{number}", run(f"r{number}", number, people=number))
    place = write.DeltaPlace(folder_store)
    for name in NAMES:
        before = place.open(name).to_pyarrow_table()
        files = len(write.data_files(place.open(name)))
        assert place.compact(name, target_bytes=128 << 20) == (files if files > 1 else 0)
        after = place.open(name).to_pyarrow_table()
        assert len(write.data_files(place.open(name))) == 1
        assert write._same_rows(after, before.cast(after.schema), contract(name))
    assert mergeable({"a": 60, "b": 50, "c": 45, "d": 200}, 100, 2) == [["c", "b"]]
    assert mergeable({"a": 60, "b": 50, "c": 45}, 100, 4) == []
