"""faceid verify and gc: whatever is damaged is told and made again, and nothing that is needed is ever swept."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from faceid_core.config.parse import changed
from faceid_core.outcomes import EXIT_COMPLETE, EXIT_FAILURES
from faceid_core.plan.planning import plan_run
from faceid_core.run.records import write_status
from faceid_core.store import Output, RunLease, StageCache, StageCall, layout, open_store, sha256_hex
from faceid_core.store.lease import running_runs
from faceid_core.tables import Tables
from faceid_core.tables.promoted import promote
from faceid_core.upkeep.gc import GRACE_SECONDS, SHORTEST_GRACE_SECONDS, collect
from faceid_core.upkeep.scopes import all_scopes
from faceid_core.upkeep.tables import vacuum
from faceid_core.upkeep.verify import verify
from flows.cli import cli
from tests.helpers.pretend_night import pretend_config, pretend_night, write_manifest
from tests.helpers.table_rows import run as table_rows

PEOPLE = 3
AGED = 2 * GRACE_SECONDS


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of three people that ended; copied before it is spoilt."""
    folder = tmp_path_factory.mktemp("whole")
    config = pretend_config(str(folder / "store"), write_manifest(folder / "people", PEOPLE))
    run = pretend_night(config)
    write_status(run, "complete")
    return config


@pytest.fixture
def spoilt(whole, tmp_path):
    """The configuration and the folder of a copy that a test may spoil."""
    shutil.copytree(Path(whole.store), tmp_path / "store")
    return changed(whole, {"store": str(tmp_path / "store")}, source="test"), tmp_path / "store"


def age(root: Path, seconds: float = AGED) -> None:
    """Let every object be older."""
    then = time.time() - seconds
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def person_scope(root: Path) -> Path:
    return sorted((root / "identities").iterdir())[0]


def names(store) -> set[str]:
    return {info.name for info in store.list("")}


def test_a_whole_store_is_sound(whole):
    told = CliRunner().invoke(cli, ["verify", "--store", whole.store])
    assert told.exit_code == EXIT_COMPLETE, told.output
    assert "is what was written" in told.output and "0 orphaned blobs" in told.output


def test_each_kind_of_damage_is_told_and_a_repaired_store_is_made_whole_by_the_next_run(spoilt):
    config, root = spoilt
    one, two, three = sorted((root / "identities").iterdir())
    manifest = next((one / "stages" / "mask").iterdir())
    manifest.write_bytes(manifest.read_bytes().replace(b'"size":', b'"size": 1'))
    tokens = StageCache(open_store(str(root)), f"identities/{two.name}")
    (found,) = tokens.manifests("personalize")
    (two / "blobs" / found.outputs["tokens.safetensors"].digest).write_bytes(b"wrong")
    (pictures,) = StageCache(open_store(str(root)), f"identities/{three.name}").manifests("generate")
    (three / "blobs" / pictures.outputs["pictures.parquet"].digest).unlink()

    told = CliRunner().invoke(cli, ["verify", "--store", str(root)])
    assert told.exit_code == EXIT_FAILURES
    for words in (
        f"damaged manifest: identities/{one.name} mask",
        f"damaged blob: identities/{two.name} personalize",
        f"missing blob: identities/{three.name} generate",
        "1 damaged manifest",
    ):
        assert words in told.output, told.output

    assert CliRunner().invoke(cli, ["verify", "--repair", "--store", str(root)]).exit_code == EXIT_FAILURES
    assert {row.stage: len(row.misses) for row in plan_run(config).stages} == {
        "detect": 0, "parse": 0, "mask": 1, "personalize": 1, "generate": 1, "score": 0,
    }  # fmt: skip
    pretend_night(config)
    again = verify(open_store(str(root)))
    assert again.sound, again.findings
    assert sum(len(row.misses) for row in plan_run(config).stages) == 0


def test_a_lost_photo_is_told_and_repair_leaves_its_results(spoilt):
    config, root = spoilt
    person = person_scope(root)
    (found,) = StageCache(open_store(str(root)), f"identities/{person.name}").manifests("detect")
    (person / "blobs" / found.content["preimage"]["inputs"]["photo"]).unlink()
    told = verify(open_store(str(root)), repair=True)
    assert told.counts() == {"missing photo": 1} and told.repaired == 0
    assert sum(len(row.misses) for row in plan_run(config).stages) == 0


def garbage(root: Path) -> dict[str, Path]:
    """One piece of each kind of garbage in a person's scope and beside it."""
    person = person_scope(root)
    made = {
        "orphaned blob": person / "blobs" / sha256_hex(b"orphaned"),
        "quarantined manifest": person / "quarantine" / "mask" / f"{'a' * 64}-{'b' * 12}.json",
        "abandoned checkpoint": person / "checkpoints" / "personalize" / ("c" * 64),
        "unlinked page": person / "reports" / f"{'d' * 32}.html",
        "unfinished write": root / ".tmp" / "4711-abandoned",
    }
    for path in made.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"orphaned")
    return made


def test_garbage_goes_when_it_is_old_and_only_when_asked(spoilt):
    config, root = spoilt
    store = open_store(str(root))
    needed = names(store)
    made = garbage(root)
    assert collect(store, delete=True).objects == 0 and all(path.exists() for path in made.values())

    age(root)
    dry = collect(store)
    assert dict(dry.counts) == dict.fromkeys(made, 1) and not dry.deleted
    assert all(path.exists() for path in made.values())
    told = CliRunner().invoke(cli, ["gc", "--store", str(root), "--delete"])
    assert told.exit_code == 0 and f"{len(made)} objects" in told.output
    assert not any(path.exists() for path in made.values())
    assert names(store) == needed
    assert verify(store).sound and sum(len(row.misses) for row in plan_run(config).stages) == 0


@pytest.mark.parametrize("days", ["0", "0.001", "nan"])
def test_no_grace_period_is_shorter_than_what_a_running_process_may_be_about_to_name(spoilt, days):
    """Blobs before their manifest, half-written files and rows before their commit are younger than an hour."""
    _, root = spoilt
    made = garbage(root)
    Tables(open_store(str(root))).publish("r1", table_rows("r1", 1))
    about_to_be_added = root / "tables" / "runs" / "v2" / "part-new.parquet"
    shutil.copy(next(about_to_be_added.parent.glob("part-*.parquet")), about_to_be_added)
    young = [*made.values(), about_to_be_added]
    age(root, SHORTEST_GRACE_SECONDS - 60)
    told = CliRunner().invoke(cli, ["gc", "--store", str(root), "--delete", "--grace-days", days])
    assert all(path.exists() for path in young), told.output
    if days != "nan":
        assert told.exit_code == EXIT_COMPLETE
        assert "grace period is one hour at least" in told.output
        age(root, SHORTEST_GRACE_SECONDS + 60)
        assert collect(open_store(str(root)), grace=0.0, delete=True).objects == len(young)
        assert not any(path.exists() for path in young)
    else:
        assert told.exit_code != EXIT_COMPLETE and "is no number of days" in told.output


@pytest.mark.parametrize("record", ["index.html", "pages.json"])
def test_a_page_that_a_run_names_stays_also_where_the_index_does_not_list_the_person(spoilt, record):
    _, root = spoilt
    page = garbage(root)["unlinked page"]
    run = next((root / "runs").iterdir())
    key = page.parents[1].name
    name = f"identities/{key}/reports/{page.name}"
    (run / record).write_text(
        f'<a href="../../{name}">' if record == "index.html" else json.dumps({key: name})
    )
    age(root)
    collect(open_store(str(root)), delete=True)
    assert page.exists()


def test_the_people_of_a_running_night_are_left_alone(spoilt):
    _, root = spoilt
    store = open_store(str(root))
    made = garbage(root)
    age(root)
    run_id = next((root / "runs").iterdir()).name
    lease = RunLease.acquire(store, run_id)
    try:
        assert running_runs(store) == [run_id]
        found = collect(store, delete=True)
    finally:
        lease.release()
    assert running_runs(store) == []
    assert found.scopes_in_use == PEOPLE + 1
    inside = [path for path in made.values() if path.is_relative_to(root / "identities")]
    assert all(path.exists() for path in inside)


def test_a_night_that_is_just_beginning_holds_everything(spoilt):
    _, root = spoilt
    store = open_store(str(root))
    made = garbage(root)
    age(root)
    with RunLease.acquire(store, "20261125-nightly-unknown"):
        collect(store, delete=True)
    assert made["orphaned blob"].exists()


def test_a_blob_that_a_result_names_meanwhile_stays(spoilt, monkeypatch):
    """The run begins and ends between the marking and the sweep: the last look finds its result."""
    _, root = spoilt
    store = open_store(str(root))
    person = person_scope(root)
    cache = StageCache(store, f"identities/{person.name}")
    (found,) = cache.manifests("mask")
    manifest = person / "stages" / "mask" / f"{found.stage_key}.json"
    data = manifest.read_bytes()
    manifest.unlink()
    age(root)
    listed = list(all_scopes(store))
    manifest.write_bytes(data)
    monkeypatch.setattr("faceid_core.upkeep.gc.all_scopes", lambda _: iter(listed))
    collect(store, delete=True)
    assert cache.read(found, "mask.png") and verify(store).sound


def test_unused_results_go_after_their_days_unless_their_run_is_pinned(spoilt):
    config, root = spoilt
    store = open_store(str(root))
    (run,) = (root / "runs").iterdir()
    age(root, 100 * 86_400)
    pretended = changed(config, {"personalize.seed": 9}, source="test")
    write_status(pretend_night(pretended), "complete")
    kept = collect(store)
    assert kept.counts["unused result"] == 0
    assert CliRunner().invoke(cli, ["pin", run.name, "--store", str(root)]).exit_code == 0
    assert collect(store, unused_days=30).counts["unused result"] == 0
    assert CliRunner().invoke(cli, ["pin", run.name, "--remove", "--store", str(root)]).exit_code == 0
    # personalize, generate and the scores of the old seed; photos, crops and masks are used still.
    own = 1 + 1 + 6
    for days, expected in (([], 0), (["--unused-days", "30"], PEOPLE * own)):
        told = CliRunner().invoke(cli, ["gc", "--store", str(root), *days])
        counted = dict(re.findall(r"^(.+?) +(\d+) ", told.output, re.MULTILINE))
        assert told.exit_code == EXIT_COMPLETE and int(counted.get("unused result", 0)) == expected
    found = collect(store, unused_days=30, delete=True)
    assert found.counts["unused result"] == PEOPLE * own
    assert found.counts["orphaned blob"] > 0
    assert verify(store).sound
    assert sum(len(row.misses) for row in plan_run(pretended).stages) == 0
    old = {row.stage: len(row.misses) for row in plan_run(config).stages}
    assert old["mask"] == 0 and old["personalize"] == PEOPLE


def test_the_current_run_keeps_its_results_and_must_be_there(spoilt):
    config, root = spoilt
    store = open_store(str(root))
    (run,) = (root / "runs").iterdir()
    age(root, 100 * 86_400)
    write_status(pretend_night(changed(config, {"personalize.seed": 9}, source="test")), "complete")
    unused = collect(store, unused_days=30).counts["unused result"]
    assert promote(store, "nightly", run.name, in_place_of=None)
    assert unused > 0 and collect(store, unused_days=30).counts["unused result"] == 0
    assert verify(store).sound
    assert promote(store, "nightly", "gone", in_place_of=run.name)
    (finding,) = verify(store).findings
    assert (
        finding.kind == "damaged record" and "run gone" in str(finding) and "faceid promote" in str(finding)
    )
    (root / layout.PROMOTED).write_bytes(b"[]")
    found = collect(store, unused_days=30)
    assert found.counts["unused result"] == 0 and "which runs are promoted is unknown" in found.damaged[0]
    assert verify(store).counts() == {"damaged record": 1}


def test_a_scope_with_an_unreadable_manifest_keeps_its_blobs(spoilt):
    _, root = spoilt
    store = open_store(str(root))
    person = person_scope(root)
    manifest = next((person / "stages" / "generate").iterdir())
    manifest.write_bytes(b"{")
    before = {path.name for path in (person / "blobs").iterdir()}
    age(root)
    found = collect(store, delete=True)
    assert found.scopes_in_doubt == 1
    assert {path.name for path in (person / "blobs").iterdir()} == before


def test_table_files_that_no_version_needs_go_and_readers_notice_nothing(folder_store):
    tables = Tables(folder_store)
    tables.publish("r1", table_rows("r1", 1))
    stray = folder_store.root / "tables" / "images" / "v2" / "part-stray.parquet"
    staged = stray.with_name("part-stray.parquet#1")  # as the library names what it has not finished
    for path in (stray, staged):
        shutil.copy(next(stray.parent.glob("part-*.parquet")), path)
    age(folder_store.root)
    before = tables.read("images").num_rows
    assert collect(folder_store).counts["table file"] == 2 and stray.exists() and staged.exists()
    assert collect(folder_store, delete=True).counts["table file"] == 2
    assert not stray.exists() and not staged.exists()
    assert tables.read("images").num_rows == before
    tables.publish("r2", table_rows("r2", 2))
    assert tables.read("runs").num_rows == 2


def test_a_table_file_that_was_collected_is_not_counted_again(folder_store):
    """Delta's log names replaced files for a week; a second collection must not promise to remove them once more."""
    tables = Tables(folder_store)
    rows = table_rows("r1", 1)
    tables.publish("r1", rows)
    again = {**rows, "runs": rows["runs"].set_column(*_doubled(rows["runs"], "seconds"))}
    tables.publish("r1", again)
    assert len(vacuum(folder_store, 0.0, delete=True)) == 1
    assert vacuum(folder_store, 0.0, delete=False) == []
    assert collect(folder_store).objects == 0


def _doubled(table, column: str):
    position = table.column_names.index(column)
    return position, column, [[2 * value.as_py() + 1 for value in table[column]]]


def test_scopes_are_listed_whole_on_both_stores(any_store):
    keys = [f"{digit}{'0' * 31}" for digit in "07f"]
    wanted = set()
    for key in keys:
        for number in range(3):
            digest = sha256_hex(f"{key} {number}".encode())
            any_store.put_if_absent(f"identities/{key}/blobs/{digest}", b"x")
            wanted.add((key, digest))
    any_store.put_if_absent(f"common/blobs/{'e' * 64}", b"x")
    found = {scope.name: scope for scope in all_scopes(any_store)}
    assert set(found) == {*(layout.identity_scope(key) for key in keys), "common"}
    assert {
        (s.name.partition("/")[2], d) for s in found.values() for d in s.blobs if s.name != "common"
    } == wanted
    assert list(found["common"].blobs) == ["e" * 64]


def test_collecting_keeps_what_a_result_names_on_both_stores(any_store):
    cache = StageCache(any_store, layout.identity_scope("ab" * 16))
    photo = cache.put_blob(b"a photo")
    made = cache.commit(
        StageCall("detect", 1, inputs={"photo": photo}), {"crop.png": Output(b"crop", "image/png")}, {}
    )
    orphan = cache.put_blob(b"orphaned")
    before = collect(any_store, grace=3600.0, delete=True)
    assert before.objects == 0 and before.kept_young == 1
    found = collect(any_store, delete=True, now=time.time() + AGED)
    assert dict(found.counts) == {"orphaned blob": 1} and found.bytes["orphaned blob"] == len(b"orphaned")
    assert cache.read(made, "crop.png") == b"crop"
    assert any_store.head(layout.blob(cache.scope, photo)) and not any_store.head(
        layout.blob(cache.scope, orphan)
    )


def test_remains_of_an_erased_person_and_strange_objects_are_told(folder_store):
    scope = layout.identity_scope("ab" * 16)
    StageCache(folder_store, scope).put_blob(b"a photo")
    folder_store.put_if_absent(layout.tombstone("ab" * 16), b"{}")
    folder_store.put_if_absent(f"{scope}/blobs/.DS_Store", b"x")
    told = verify(folder_store).counts()
    assert told == {"remains of an erased person": 1, "strange object": 1}


def test_everything_is_checked_however_many_read_at_a_time(spoilt):
    _, root = spoilt
    seen = []
    found = verify(open_store(str(root)), threads=2, progress=lambda done, total: seen.append((done, total)))
    assert sorted(seen) == [(number + 1, PEOPLE + 1) for number in range(PEOPLE + 1)]
    assert (found.manifests, found.blobs) == (
        len(list(root.glob("*/**/stages/*/*.json"))),
        len(list(root.glob("*/**/blobs/*"))),
    )
