"""A publication that is stopped at any write while a person is erased: in the end nothing of the person is left."""

from __future__ import annotations

import os
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from faceid_core.config.parse import changed
from faceid_core.nightly import close_outcome_reports
from faceid_core.publish.publish import publish, publish_interrupted
from faceid_core.run.lookup import lookup_stage
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.run.state import Run
from faceid_core.stages import STAGES
from faceid_core.store import IdentitySecret, open_store
from faceid_core.store.tombstone import read_receipt
from faceid_core.tables import Tables
from faceid_core.upkeep.erase import erase, finish_erasures
from faceid_core.upkeep.verify import verify
from tests.conftest import TEST_SECRET
from tests.helpers.fault_counts import FaultRecord
from tests.helpers.stopped import Killed, Stop, StoppedStore, tables_too

SEED = int(os.environ["FACEID_FAULT_SEED"])  # drawn and printed by tests/conftest.py
SAMPLE = 2
SECRET = IdentitySecret(bytes.fromhex(TEST_SECRET))
GONE, STAYS = (SECRET.identity_key(who) for who in ("ann", "bob"))
WAYS = [f"{when} {then}" for when in ("before", "after") for then in ("goes on", "is killed")]


@pytest.fixture(scope="module")
def computed(night_on, undisturbed_pair, tmp_path_factory):
    """The configuration of a store that holds every result of two people, but neither pages nor rows."""
    config = night_on("undisturbed-pair", people=2)
    root = tmp_path_factory.mktemp("computed") / "store"
    shutil.copytree(config.store, root)
    for folder in ("tables", "catalog", "runs", "leases", *root.glob("identities/*/reports")):
        shutil.rmtree(root / folder)
    return changed(config, {"store": str(root)}, source="test")


def opened(computed, root: Path) -> Run:
    """A run on a copy of that store, every outcome report closed, about to publish."""
    shutil.copytree(computed.store, root)
    run = open_run(changed(computed, {"store": str(root)}, source="test"), LogReporter())
    for stage in STAGES:
        assert lookup_stage(run, stage) == []
    run.release()  # as that of a process that is stopped for longer than the lease
    return run


def stopped_night(computed, root: Path, stop: Stop, publish_it) -> Run:
    """Publish with a stop at one of the writes."""
    run = opened(computed, root)
    run.store = StoppedStore(run.store, stop)
    with tables_too(stop), suppress(Killed):
        publish_it(run)
    return run


def whole(run: Run) -> None:
    run.finish()
    publish(run)


def interrupted(run: Run) -> None:
    close_outcome_reports(run, "KeyboardInterrupt: ")
    publish_interrupted(run, KeyboardInterrupt())


PUBLICATIONS = {"whole": whole, "interrupted": interrupted}


def check(computed, root: Path, kind: str, at: int, way: str) -> None:
    """Erase a person while a publication is stopped at a write; nothing of the person may be left in the end."""
    when, then = way.split(" ", 1)

    def erased() -> None:
        assert erase(open_store(str(root)), SECRET, "ann", longest_lease=0.0).state == "complete"

    stop = Stop(erased, at=at, after=when == "after", killed=then == "is killed")
    stopped_night(computed, root, stop, PUBLICATIONS[kind])
    where, store = f"{kind}: stopped {when} {stop.names[at - 1]}, then {then}", open_store(str(root))
    if then == "is killed":
        finish_erasures(store)
    else:
        nothing_is_left(root, where)
        outcome_report = Tables(store).query(
            f"select outcome, identity_id from identity_outcomes where identity_key = '{GONE}'"
        )
        if outcome_report.num_rows:  # she was there when the run began, and the outcome report of a run is complete
            assert outcome_report.to_pylist() == [{"outcome": "refused", "identity_id": GONE}], where
        finish_erasures(store)
    nothing_is_left(root, where)
    assert read_receipt(store, GONE).state == "complete", where
    assert verify(store).sound, where
    if then == "goes on":
        rows = Tables(store).query(f"select count(*) as n from images where subject = '{STAYS}'").to_pylist()
        assert rows == [{"n": 1}], where
        assert Tables(store).read("runs").num_rows == 1, where


def nothing_is_left(root: Path, where: str) -> None:
    """Search every file for the person's key; run records keep it, and the outcome report of a run that refused her."""
    names = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    left = [name for name in names if GONE in name and not name.startswith("tombstones/")]
    for name in names:
        if not name.startswith(("runs/", "tombstones/", "tables/identity_outcomes/")):
            left += [name] if GONE.encode() in (root / name).read_bytes() else []
    assert left == [], where
    known = read_receipt(open_store(str(root)), GONE).stage_keys
    for name in names:
        if name.startswith("tables/image"):
            data = (root / name).read_bytes()
            assert not any(key.encode() in data for key in known), f"{where}: {name}"


def writes(computed, root: Path, kind: str) -> int:
    stop = Stop(lambda: None)
    stopped_night(computed, root, stop, PUBLICATIONS[kind])
    return len(stop.names)


def test_stopped_at_a_few_writes_nothing_of_an_erased_person_is_left(computed, tmp_path):
    chosen, count = random.Random(SEED), writes(computed, tmp_path / "counted", "whole")
    assert count >= 10
    for number, at in enumerate(chosen.sample(range(1, count + 1), SAMPLE)):
        check(computed, tmp_path / str(number), "whole", at, chosen.choice(WAYS))


def test_stopped_before_its_first_rows_a_publication_takes_them_back(computed, tmp_path):
    """The commit of `identity_outcomes`, whose rows hold ids, is the first one to a table."""
    stop = Stop(lambda: None)
    stopped_night(computed, tmp_path / "counted", stop, whole)
    first = next(at for at, name in enumerate(stop.names, 1) if name.startswith("commit "))
    check(computed, tmp_path / "stopped", "whole", first, "before goes on")


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_stopped_at_every_write_nothing_of_an_erased_person_is_left(computed, tmp_path):
    record = FaultRecord("erasure-at-every-write-of-a-publication")
    points = [
        f"{kind}: {at} {way}"
        for kind in PUBLICATIONS
        for at in range(1, writes(computed, tmp_path / f"counted-{kind}", kind) + 1)
        for way in WAYS
    ]
    for point in record.left(points):
        kind, _, rest = point.partition(": ")
        at, way = rest.split(" ", 1)
        root = tmp_path / point.replace(" ", "-").replace(":", "")
        check(computed, root, kind, int(at), way)
        record.add(point, faults=1, runs=1, compared=sum(path.is_file() for path in root.rglob("*")))
        shutil.rmtree(root)
