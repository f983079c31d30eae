"""faceid erase: nothing of a person is left, versions, log and statistics included; others lose nothing."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner
from deltalake import DeltaTable

from data_contracts import NAMES, contract
from faceid_core.config.parse import changed
from faceid_core.errors import ConfigurationError, StoreError
from faceid_core.outcomes import EXIT_CONFIGURATION, Outcome
from faceid_core.publish.rows import outcome_tables
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.store import IdentitySecret, RunLease, StageCache, layout, open_store
from faceid_core.tables import Tables
from faceid_core.upkeep import erase as erasing
from faceid_core.upkeep import tables as upkeep
from faceid_core.upkeep.erase import close_erased, erase, finish_erasures
from faceid_core.upkeep.gc import collect
from faceid_core.upkeep.verify import verify
from flows.cli import cli
from tests.conftest import TEST_SECRET
from tests.helpers import table_rows
from tests.helpers.pretend_night import pretend_config, pretend_night, write_manifest

SECRET = IdentitySecret(bytes.fromhex(TEST_SECRET))
PEOPLE = 2
GONE, STAYS = "person-000000", "person-000001"
KEY = SECRET.identity_key(GONE)


def fill(store, folder, days=(1, 2)) -> SimpleNamespace:
    """A run of two people in a store, with their rows in the tables of a run for each day."""
    config = pretend_config(store.url, write_manifest(folder / "people", PEOPLE))
    run = pretend_night(config)
    for day in days:
        Tables(store).publish(f"r{day}", rows_of(run, f"r{day}", day))
    return SimpleNamespace(config=config, run=run, store=store)


def rows_of(run, run_id: str, day: int) -> dict:
    """Rows of all people in all tables, with the keys that the run's results have."""
    made = {name: [] for name in ("runs", "identity_outcomes", "images", "image_metrics", "identity_summary")}
    made["runs"].append(table_rows.run_row(run_id, day, PEOPLE))
    for number, (key, outcome_report) in enumerate(run.outcome_reports.items()):
        keys = outcome_report.stage_keys
        scores = {name: stage_key for name, stage_key in keys.items() if "score-" in name}
        results = [{"stage": name, "stage_key": stage_key} for name, stage_key in scores.items()]
        own = {"generate_key": keys["generate"]}
        made["identity_outcomes"].append(
            table_rows.outcome_row(run_id, day, number)
            | own | {"identity_id": outcome_report.identity_id, "identity_key": key, "stage_results": results}
        )  # fmt: skip
        made["identity_summary"].append(
            table_rows.summary_row(run_id, day, number)
            | {"subject": key, "identity_id": outcome_report.identity_id, "identity_key": key}
        )
        made["images"].append(table_rows.image_row(day, number, 0) | own | {"subject": key})
        floor = run.plan.floors["person"].stage_key
        made["image_metrics"] += [
            table_rows.metric_row(day, number, 0, 0.5) | own | {"score_key": scores["score-identity"]},
            table_rows.metric_row(day, number, 0, 0.1)
            | {"generate_key": floor, "score_key": scores["floor_score-identity"]},
        ]
    return {name: contract(name).table(rows) for name, rows in made.items()}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A filled folder store, made once."""
    folder = tmp_path_factory.mktemp("filled")
    return fill(open_store(str(folder / "store")), folder)


@pytest.fixture
def filled(original, tmp_path):
    """A copy of it in which a person may be erased."""
    shutil.copytree(original.store.root, tmp_path / "store")
    store = open_store(str(tmp_path / "store"))
    return SimpleNamespace(
        config=changed(original.config, {"store": store.url}, source="test"),
        run=original.run,
        store=store,
    )


def leftovers(root, *words: str) -> list[str]:
    """Files below a folder that hold one of the words, or have it in their name; run records keep the opaque key."""
    found = []
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not name.startswith(("runs/", "tombstones/")):
            data = path.read_bytes()
            if path.suffix == ".parquet" and name.startswith("tables/") and "_delta_log" not in name:
                data += repr(pq.read_table(path).to_pylist()).encode()  # the pages are compressed
            if any(word in name or word.encode() in data for word in words):
                found.append(name)
    return found


def require_erased(made) -> None:
    assert leftovers(made.store.root, GONE, KEY) == []
    tables = Tables(made.store)
    for name in ("identity_outcomes", "identity_summary"):
        assert set(tables.read(name)["identity_id"].to_pylist()) == {STAYS}
    assert tables.read("identity_outcomes").num_rows == 2 and tables.read("runs").num_rows == 2
    assert tables.read("images").num_rows == 1 and tables.read("image_metrics").num_rows == 2
    stays = StageCache(made.store, layout.identity_scope(SECRET.identity_key(STAYS)))
    for stage in ("detect", "personalize", "generate"):
        (manifest,) = stays.manifests(stage)
        assert all(stays.read(manifest, name) for name in manifest.outputs)
    assert verify(made.store).sound


def test_nothing_is_left_and_the_others_lose_nothing(filled):
    assert leftovers(filled.store.root, GONE) and leftovers(filled.store.root, KEY)
    receipt = erase(filled.store, SECRET, GONE, longest_lease=0.0)
    require_erased(filled)
    assert receipt.state == "complete" and receipt.identity_key == KEY and receipt.objects > 20
    assert receipt.rows == {
        "identity_outcomes": 2, "identity_summary": 2, "images": 1, "image_metrics": 2,
    }  # fmt: skip
    kept = json.loads(filled.store.get(layout.tombstone(KEY)))
    assert kept["state"] == "complete" and kept["objects"] == receipt.objects
    # Of pictures and scores only: by these are rows found that a stopped process may bring still.
    assert set(kept["stage_keys"]) == {
        m.stage_key
        for result, m in filled.run.subjects[KEY].manifests.items()
        if result == "generate" or "score-" in result
    }
    assert GONE not in json.dumps(kept)
    # Later runs find tables that can be written and read.
    Tables(filled.store).publish("r3", table_rows.run("r3", 3))
    assert Tables(filled.store).read("runs").num_rows == 3


def test_no_row_is_left_in_files_that_were_merged_nor_in_those_that_they_replaced(filled):
    for day in range(3, 8):
        Tables(filled.store).publish(f"r{day}", rows_of(filled.run, f"r{day}", day))
    collect(filled.store, delete=True)  # merges what the publications left
    files = [path for path in (filled.store.root / "tables").rglob("*.parquet") if "_delta_log" not in str(path)]
    shown = {name: DeltaTable(filled.store.root / "tables" / name / "v2").file_uris() for name in NAMES}
    assert {len(each) for each in shown.values()} == {1} and len(files) > 10, "those that were replaced are kept"
    assert leftovers(filled.store.root / "tables", KEY)
    erase(filled.store, SECRET, GONE, longest_lease=0.0)
    assert leftovers(filled.store.root, GONE, KEY) == []
    assert Tables(filled.store).read("identity_outcomes").num_rows == 7
    assert verify(filled.store).sound


def test_the_tables_can_be_asked_published_and_erased_from_afterwards(filled):
    stays = SECRET.identity_key(STAYS)
    erase(filled.store, SECRET, GONE, longest_lease=0.0)
    tables = Tables(filled.store)
    (row,) = tables.query(f"select count(*) as n from images where subject = '{stays}'").to_pylist()
    assert row["n"] == 1
    rows = rows_of(filled.run, "r3", 3)
    assert tables.publish("r3", rows) and tables.read("images").num_rows == 2  # the one who is gone came back
    assert collect(filled.store, 0.0).counts["table file"] == 0  # the log still names what is gone
    receipt = erase(filled.store, SECRET, STAYS, longest_lease=0.0)
    assert receipt.rows["images"] == 1 and set(tables.read("images")["subject"].to_pylist()) == {KEY}


def test_a_later_run_refuses_the_person_and_takes_the_others(filled):
    erase(filled.store, SECRET, GONE, longest_lease=0.0)
    run = pretend_night(filled.config)
    outcome_report = run.outcome_reports[KEY]
    assert (outcome_report.outcome, outcome_report.reason) == (Outcome.REFUSED, "erased")
    assert run.outcome_reports[SECRET.identity_key(STAYS)].alive
    assert leftovers(filled.store.root, KEY) == []


STEPS = ("purge", "_delete", "_checkpoint")
MORE_STEPS = ("delete:3", "_advance", "_vacuum", "_forget_log")


@pytest.mark.parametrize(
    "step", [*STEPS, *(pytest.param(step, marks=pytest.mark.exhaustive) for step in MORE_STEPS)]
)
def test_an_erasure_that_died_on_its_way_is_completed_by_the_next(filled, monkeypatch, step):
    name, _, number = step.partition(":")
    holder = upkeep if name.startswith("_") else filled.store
    real, calls = getattr(holder, name), []

    def dies(*args, **kwargs):
        calls.append(args)
        if len(calls) > int(number or 0):
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(holder, name, dies)
        erase(filled.store, SECRET, GONE, longest_lease=0.0)
    assert filled.store.head(layout.tombstone(KEY)) is not None
    assert Tables(filled.store).read("runs").num_rows == 2  # readers are served meanwhile
    assert erase(filled.store, SECRET, GONE, longest_lease=0.0).state == "complete"
    require_erased(filled)


def test_the_second_sweep_waits_for_whatever_was_under_way(filled):
    receipt = erase(filled.store, SECRET, GONE, wait=False, longest_lease=3600.0)
    due = dt.datetime.fromisoformat(receipt.sweep_again_at) - dt.datetime.now(dt.UTC)
    assert receipt.state == "swept" and 3500 < due.total_seconds() <= 3600
    assert finish_erasures(filled.store).receipts == []  # not due, and nothing has come back
    # A worker that looked for the tombstone just before it was written commits after the first sweep.
    late = f"{layout.identity_scope(KEY)}/blobs/{'a' * 64}"
    filled.store.put_if_absent(late, b"late")
    (finished,) = finish_erasures(filled.store).receipts
    assert finished.state == "complete" and filled.store.head(late) is None
    require_erased(filled)


def test_collecting_garbage_finishes_an_erasure_that_did_not_wait(filled):
    erase(filled.store, SECRET, GONE, wait=False, longest_lease=0.0)
    late = f"{layout.identity_scope(KEY)}/blobs/{'a' * 64}"
    filled.store.put_if_absent(late, b"late")
    told = CliRunner().invoke(cli, ["gc", "--store", str(filled.store.root)])
    assert told.exit_code == 0 and "erasure of" not in told.output and filled.store.head(late) is not None
    told = CliRunner().invoke(cli, ["gc", "--store", str(filled.store.root), "--delete"])
    assert told.exit_code == 0 and f"erasure of {KEY}: complete" in told.output
    assert filled.store.head(late) is None
    require_erased(filled)


def test_the_wait_is_as_long_as_the_longest_lease(filled, monkeypatch):
    slept = []
    monkeypatch.setattr(erasing.time, "sleep", slept.append)
    erase(filled.store, SECRET, GONE)
    assert len(slept) == 1 and 0 < slept[0] <= erasing.LONGEST_LEASE_SECONDS


def test_a_night_that_was_running_publishes_nothing_of_the_person(filled):
    run = open_run(filled.config, LogReporter())
    run.release()
    erase(filled.store, SECRET, GONE, longest_lease=0.0)
    run.outcome_reports[KEY].stage_keys["generate"] = "a" * 64
    run.outcome_reports[KEY].close(Outcome.DONE)
    close_erased(run)
    outcome_report = run.outcome_reports[KEY]
    assert (outcome_report.outcome, outcome_report.reason, outcome_report.stage_keys) == (Outcome.REFUSED, "erased", {})
    assert run.outcome_reports[SECRET.identity_key(STAYS)].outcome is None


def test_the_row_of_a_person_erased_in_the_middle_says_nothing_of_the_photo_and_the_results(filled):
    """Whether a worker was the first to meet the tombstone, or the publication."""
    run = open_run(filled.config, LogReporter())
    run.release()
    erase(filled.store, SECRET, GONE, longest_lease=0.0)
    run.outcome_reports[KEY].stage_keys["generate"] = "a" * 64
    run.outcome_reports[KEY].close(Outcome.REFUSED, stage="generate", reason="erased", message="erased meanwhile")
    run.outcome_reports[SECRET.identity_key(STAYS)].close(Outcome.FAILED, stage="detect", reason="x", message="x")
    assert run.subjects[KEY].photo_digest and close_erased(run) == {}
    rows = {row["identity_key"]: row for row in outcome_tables(run, exit_status=0)["identity_outcomes"].to_pylist()}
    gone = rows[KEY]
    assert gone["identity_id"] == KEY and gone["outcome"] == "refused" and gone["stage_results"] == []
    assert {gone[name] for name in gone if name.endswith("_key") and name != "identity_key"} == {None}
    assert gone["photo_digest"] is None and rows[SECRET.identity_key(STAYS)]["photo_digest"]
    assert run.outcome_reports[KEY].stage_keys == {}, "nor does the record of the run"


def test_an_id_that_cannot_be_one_is_refused_before_anything_is_done(filled):
    before = [info.name for info in filled.store.list("")]
    with pytest.raises(ConfigurationError, match="not allowed"):
        erase(filled.store, SECRET, "../common")
    assert [info.name for info in filled.store.list("")] == before


def test_a_person_whom_the_store_never_saw_is_refused_from_now_on(filled):
    receipt = erase(filled.store, SECRET, "stranger", longest_lease=0.0)
    assert (receipt.state, receipt.objects, receipt.rows) == ("complete", 0, {})
    assert filled.store.head(layout.tombstone(SECRET.identity_key("stranger")))


def test_the_command_asks_and_prints_the_receipt(filled):
    where = ["erase", GONE, "--store", str(filled.store.root)]
    told = CliRunner().invoke(cli, where, input="n\n")
    assert told.exit_code == EXIT_CONFIGURATION and "nothing was erased" in told.output
    assert filled.store.head(layout.tombstone(KEY)) is None
    told = CliRunner().invoke(cli, [*where, "--yes", "--no-wait"])
    assert told.exit_code == 0, told.output
    receipt = json.loads(told.output[told.output.index("{") :])
    assert receipt["identity_key"] == KEY and receipt["state"] == "swept" and "stage_keys" not in receipt


def test_on_s3_every_version_goes(s3_server, s3_store, tmp_path):
    s3_server.client.put_bucket_versioning(
        Bucket=s3_store.bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    fill(s3_store, tmp_path, days=(1,))
    scope = layout.identity_scope(KEY)
    (info, *_) = list(s3_store.list(f"{scope}/stages/"))
    s3_store.replace_if_match(info.name, b"newer", info.etag)
    receipt = erase(s3_store, SECRET, GONE, longest_lease=0.0)
    assert receipt.state == "complete"
    answer = s3_server.client.list_object_versions(Bucket=s3_store.bucket)
    rows = [*answer.get("Versions", ()), *answer.get("DeleteMarkers", ())]
    assert not [row["Key"] for row in rows if KEY in row["Key"] and "tombstones" not in row["Key"]]
    for row in answer["Versions"]:
        if "/tables/" in row["Key"]:
            assert row["IsLatest"], row["Key"]
            data = s3_server.client.get_object(
                Bucket=s3_store.bucket, Key=row["Key"], VersionId=row["VersionId"]
            )["Body"].read()
            assert GONE.encode() not in data and KEY.encode() not in data, row["Key"]
    tables = Tables(s3_store)
    assert set(tables.read("identity_outcomes")["identity_id"].to_pylist()) == {STAYS}


def test_versions_that_may_not_be_removed_are_an_error(s3_server, s3_store, monkeypatch):
    s3_store.put_if_absent(f"{layout.identity_scope(KEY)}/blobs/{'a' * 64}", b"x")
    refusal = {"Errors": [{"Key": f"{s3_store.prefix}/x", "Code": "AccessDenied", "Message": "locked"}]}
    monkeypatch.setattr(s3_store._client, "delete_objects", lambda **_: refusal)
    with pytest.raises(StoreError, match=r"cannot remove all versions of x .*DeleteObjectVersion"):
        erase(s3_store, SECRET, GONE, longest_lease=0.0)
    assert s3_store.head(layout.tombstone(KEY)) is not None


def test_a_policy_that_does_not_suffice_says_what_to_allow(s3_store, monkeypatch):
    def denied(name):
        error = {
            "Error": {"Code": "AccessDenied", "Message": "no"},
            "ResponseMetadata": {"HTTPStatusCode": 403},
        }
        raise ClientError(error, name)

    monkeypatch.setattr(s3_store._client, "get_paginator", denied)
    with pytest.raises(StoreError, match="allow ListBucketVersions and DeleteObjectVersion"):
        s3_store.purge("identities/")
    with pytest.raises(StoreError, match="allow ListBucketMultipartUploads"):
        s3_store.sweep_unfinished(0.0, delete=False)


def test_unfinished_writes_of_a_folder_go_with_the_second_sweep(filled):
    half = filled.store.root / ".tmp" / "4711-abandoned"
    half.write_bytes(b"half a face")
    erase(filled.store, SECRET, GONE, longest_lease=0.0)
    assert not half.exists()
    assert (filled.store.root / ".tmp" / "locks").is_dir()


def test_table_files_that_a_dead_writer_left_go_and_those_of_a_running_night_stay(filled):
    folder = filled.store.root / "tables" / "identity_outcomes" / "v2"
    stray, young = folder / "part-stray.parquet", folder / "part-young.parquet"
    for path in (stray, young):
        shutil.copy(next(folder.glob("part-*.parquet")), path)
    os.utime(stray, (1, 1))
    with RunLease.acquire(filled.store, "20261125-nightly-a"):
        erase(filled.store, SECRET, GONE, wait=False, longest_lease=60.0)
    assert stray.exists() and young.exists()
    erase(filled.store, SECRET, GONE, wait=False, longest_lease=60.0)  # not due yet
    assert stray.exists()
    filled.store.delete(layout.tombstone(KEY))
    erase(filled.store, SECRET, GONE, wait=False, longest_lease=60.0)
    assert not stray.exists() and young.exists()
    assert set(Tables(filled.store).read("identity_outcomes")["identity_id"].to_pylist()) == {STAYS}


def test_a_reader_whose_versions_are_ended_meanwhile_takes_the_new_ones(filled, monkeypatch):
    tables = Tables(filled.store)
    old = tables.catalog()
    erase(filled.store, SECRET, GONE, longest_lease=0.0)
    new, answers = tables.catalog(), [old]
    assert new.versions != old.versions
    monkeypatch.setattr(tables, "catalog", lambda: answers.pop() if answers else new)
    assert tables.read("runs").num_rows == 2 and not answers


def test_an_id_that_the_store_does_not_have_is_told_and_the_question_stays_out_of_the_receipt(filled):
    where = ["erase", f"{GONE}-misspelt", "--store", str(filled.store.root), "--no-wait"]
    told = CliRunner().invoke(cli, where, input="y\n")
    assert told.exit_code == 0 and told.stderr.count("check its spelling") == 2
    assert json.loads(told.stdout)["objects"] == 0
    known = CliRunner().invoke(cli, ["erase", GONE, "--store", str(filled.store.root), "--no-wait"], input="y\n")
    assert known.exit_code == 0 and "spelling" not in known.stderr and json.loads(known.stdout)["objects"] > 0
