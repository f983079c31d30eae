"""Writes of a person's data beside an erasure: whatever the order and the pauses, nothing of the person stands."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace as replace_in

import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from data_contracts import contract
from faceid_core.stages.leases import WorkLeases
from faceid_core.stages.work import Work
from faceid_core.store import (
    IdentityErased,
    IdentitySecret,
    Output,
    StageCache,
    StageCall,
    layout,
    open_store,
)
from faceid_core.store.checkpoint import CheckpointStore
from faceid_core.store.tombstone import read_receipt, record, reopen
from faceid_core.tables import Tables
from faceid_core.tables import write as table_writes
from faceid_core.upkeep.erase import erase, finish_erasures
from faceid_core.upkeep.gc import SHORTEST_GRACE_SECONDS
from faceid_core.upkeep.verify import verify
from tests.conftest import TEST_SECRET
from tests.helpers.stopped import Stop, StoppedStore
from tests.helpers.table_rows import run as table_rows

SECRET = IdentitySecret(bytes.fromhex(TEST_SECRET))
WHO = "ann"
KEY = SECRET.identity_key(WHO)
SCOPE = layout.identity_scope(KEY)
CALL = StageCall("personalize", 1)
OUTPUTS = {name: Output(name.encode(), "x/y") for name in ("tokens", "curve")}


def commit(store):
    StageCache(store, SCOPE).commit(CALL, OUTPUTS, {})


def replace(store):
    StageCache(store, SCOPE).commit(CALL, OUTPUTS, {}, replace=True)


def photo(store):
    StageCache(store, SCOPE).put_blob(b"a photo")


def checkpoint(store):
    CheckpointStore(store, SCOPE, "r1").write(CALL, b"half way")


def set_aside(store):
    store._inner.put_if_absent(layout.stage_manifest(SCOPE, CALL.stage, CALL.key), b"{")
    assert StageCache(store, SCOPE).read_manifest(CALL.stage, CALL.key) is None


def lease(store):
    shared, work = WorkLeases(store, "r1"), Work(KEY, SCOPE, CALL, {}, CALL.stage)
    shared.begin([work])
    shared.end(work)


@pytest.mark.parametrize("write", [commit, replace, photo, checkpoint, set_aside, lease])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_write_that_was_stopped_beside_an_erasure_is_undone(folder_store, tmp_path, write, after):
    counted = Stop(lambda: None)
    write(StoppedStore(folder_store, counted))
    assert counted.names
    for at, name in enumerate(counted.names, 1):
        store = open_store(str(tmp_path / f"stopped-{at}"))

        def erased(store=store):
            assert erase(store, SECRET, WHO, longest_lease=0.0).state == "complete"

        with suppress(IdentityErased):
            write(StoppedStore(store, Stop(erased, at=at, after=after)))
        assert [info.name for info in store.list(f"{SCOPE}/")] == [], name
        assert store.head(layout.tombstone(KEY))


def test_a_worker_is_given_no_work_of_a_person_who_is_erased(folder_store):
    erase(folder_store, SECRET, WHO, longest_lease=0.0)
    mine, elsewhere, done = WorkLeases(folder_store, "r1").begin([Work(KEY, SCOPE, CALL, {}, CALL.stage)])
    assert (mine, elsewhere) == ([], [])
    assert [(each.status, each.reason) for each in done] == [("refused", "erased")]


@pytest.mark.parametrize("write", [photo, lease])
def test_an_undone_write_has_the_erasure_sweep_once_more(folder_store, write):
    """A bucket may keep a version of it, which the role of a run may not remove."""

    def erased():
        erase(folder_store, SECRET, WHO, longest_lease=0.0)

    with suppress(IdentityErased):  # of a worker's queue the person is refused
        write(StoppedStore(folder_store, Stop(erased, at=1)))
    assert read_receipt(folder_store, KEY).state == "swept"
    (finished,) = finish_erasures(folder_store).receipts
    assert finished.state == "complete" and finished.late == 1
    assert finish_erasures(folder_store).receipts == []


def test_an_erasure_beside_which_a_write_was_undone_is_not_complete_yet(folder_store):
    erase(folder_store, SECRET, WHO, wait=False, longest_lease=0.0)
    known = read_receipt(folder_store, KEY)
    reopen(folder_store, KEY)
    put_off = record(folder_store, replace_in(known, state="complete", completed_at=known.erased_at))
    assert (put_off.state, put_off.late) == ("swept", 1)


def test_files_that_a_stopped_writer_left_are_looked_at_before_an_erasure_is_complete(folder_store):
    """Rows that no version names: the writer died between its file and its commit."""
    rows = table_rows("r1", 1)
    Tables(folder_store).publish("r1", rows)
    stray = folder_store.root / "tables/identity_outcomes/v2/part-stray.parquet"
    pq.write_table(_of_the_erased(rows["identity_outcomes"]), stray)
    assert erase(folder_store, SECRET, WHO, longest_lease=0.0).state == "swept" and stray.exists()
    assert [receipt.state for receipt in finish_erasures(folder_store).receipts] == ["swept"]
    then = stray.stat().st_mtime - 2 * SHORTEST_GRACE_SECONDS
    os.utime(stray, (then, then))
    receipt = record(folder_store, replace_in(read_receipt(folder_store, KEY), sweep_again_at=None))
    assert receipt.state == "swept"
    assert [receipt.state for receipt in finish_erasures(folder_store).receipts] == ["complete"]
    assert not stray.exists()


def test_scores_that_a_stopped_process_brings_are_found_by_their_stage_keys_unless_they_are_anothers_too(
    folder_store,
):
    """Their rows hold no person. Two ids with one photo share them, and one of the two may stay."""
    tables, rows = Tables(folder_store), table_rows("r1", 1, people=1)
    key = rows["image_metrics"]["generate_key"][0].as_py()
    erase(folder_store, SECRET, WHO, longest_lease=0.0)
    record(folder_store, replace_in(read_receipt(folder_store, KEY), stage_keys=(key,)))
    tables.publish("r1", rows)
    assert finish_erasures(folder_store).receipts == [] and tables.read("image_metrics").num_rows == 2
    no_people = table_rows("r2", 2, people=0)
    tables.publish("r1", rows | {name: no_people[name] for name in ("identity_outcomes", "identity_summary")})
    told: list[str] = []
    finished = finish_erasures(folder_store, report=told.append).receipts
    assert [receipt.rows for receipt in finished] == [{"image_metrics": 2, "images": 2}], told
    assert tables.read("image_metrics").num_rows == 0 and tables.read("runs").num_rows == 1


def test_files_that_were_swept_before_their_commit_are_written_again(folder_store, monkeypatch):
    """The writer was stopped between its files and its commit for longer than any grace period."""
    tables, rows = Tables(folder_store), table_rows("r1", 1)
    swept = []

    def late(delta, some, **options):
        before = table_writes.data_files(delta)
        write_deltalake(delta, some, **options)
        if not swept:
            swept.extend(table_writes.data_files(delta) - before)
            for file in swept:
                folder_store.delete(f"{table_writes.folder_name(contract('runs'))}/{file}")

    tables.publish("r0", table_rows("r0", 2))
    with monkeypatch.context() as patch:
        patch.setattr(table_writes, "write_deltalake", late)
        table_writes.DeltaPlace(folder_store).append("runs", rows["runs"])
    assert swept
    tables.publish("r1", rows)
    assert sorted(tables.read("runs")["run_id"].to_pylist()) == ["r0", "r1"]
    assert Tables(folder_store).read("images").num_rows == 4


def test_a_commit_that_no_reader_comes_upon_is_made_again(folder_store, monkeypatch):
    """The writer was stopped right before its commit while an erasure cut the log: its entry lies before the cut."""
    tables, lost = Tables(folder_store), []

    def before_the_cut(delta, some, **options):
        if len(lost) < 2:
            lost.append(some)
        else:
            write_deltalake(delta, some, **options)

    monkeypatch.setattr(table_writes, "write_deltalake", before_the_cut)
    tables.publish("r1", table_rows("r1", 1))
    tables.publish("r1", table_rows("r1", 1) | {"runs": _another_name(table_rows("r1", 1)["runs"])})
    assert len(lost) == 2
    assert tables.read("runs")["name"].to_pylist() == ["another"]
    assert tables.read("image_metrics").num_rows == 4


def _another_name(runs):
    at = runs.column_names.index("name")
    return runs.set_column(at, "name", [["another"]])


def test_verify_tells_of_anything_that_stands_under_a_tombstone(folder_store):
    erase(folder_store, SECRET, WHO, longest_lease=0.0)
    assert verify(folder_store).sound
    page = f"{SCOPE}/reports/{'a' * 32}.html"
    folder_store.put_if_absent(page, b"a page")
    assert verify(folder_store).counts() == {"remains of an erased person": 1}
    folder_store.delete(page)
    rows = table_rows("r1", 1)
    rows = rows | {"identity_outcomes": _of_the_erased(rows["identity_outcomes"])}
    Tables(folder_store).publish("r1", rows)
    assert verify(folder_store).counts() == {"remains of an erased person": 1}
    assert [receipt.state for receipt in finish_erasures(folder_store).receipts] == ["complete"]
    assert verify(folder_store).sound


def _of_the_erased(outcomes):
    at = outcomes.column_names.index("identity_key")
    keys = [KEY, *outcomes["identity_key"].to_pylist()[1:]]
    return outcomes.set_column(at, outcomes.schema.field("identity_key"), [keys])
