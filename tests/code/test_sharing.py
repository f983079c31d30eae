"""Two runs at the same work: the long stages are done once, and the work of a dead process is taken over."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import pytest

from faceid_core.config import parse_config
from faceid_core.outcomes import UNLEARNABLE
from faceid_core.run.executor import InlineExecutor
from faceid_core.stages.executing.generate import ConstantPictures
from faceid_core.stages.executing.personalize import SlotStopped
from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.work import MADE_ELSEWHERE, Work
from faceid_core.store import Output, RunLease, StageCache, layout
from faceid_core.store.keys import StageCall, canonical_json
from faceid_core.store.lease import NAME, running_runs
from faceid_core.store.lease_record import own_record

SCOPE = f"identities/{'ab' * 16}"


class Slow:
    """A stage that takes a while and counts what it made."""

    def __init__(self, seconds: float = 0.05):
        self.made: list[str] = []
        self.seconds = seconds
        self.fails: Exception | None = None

    def execute(self, works, inputs, models, on_progress):
        for index, work in enumerate(works):
            time.sleep(self.seconds)
            self.made.append(work.call.key)
            yield (
                index,
                self.fails or {"x": Output(work.call.key.encode(), "x/y")},
                {},
            )


@pytest.fixture
def slow(monkeypatch):
    stage = Slow()
    monkeypatch.setattr("faceid_core.stages.worker.stage_function", lambda _: stage.execute)
    monkeypatch.setattr("faceid_core.stages.leases.POLL_SECONDS", 0.02)
    monkeypatch.setattr("faceid_core.stages.worker._versions", dict)
    return stage


def works(count: int, stage: str = "personalize") -> list[Work]:
    calls = [StageCall(stage, 1, {"number": number}) for number in range(count)]
    return [Work(f"person-{number}", SCOPE, call, {}, stage) for number, call in enumerate(calls)]


def executor(store, run_id: str, attempts: int = 1) -> InlineExecutor:
    config = parse_config({"store": store.url, "personalize": {"slots": 1}})
    return InlineExecutor(WorkerSettings.from_config(config, {}, threads=0), run_id, attempts=attempts)


def run(store, run_id: str, some: list[Work], attempts: int = 1) -> list:
    done = []
    executor(store, run_id, attempts).execute(some, lambda *_: None, done.append, lambda: False)
    return done


def leases(store) -> list[str]:
    return [info.name for info in store.list(f"{SCOPE}/leases/")]


def test_two_runs_do_each_piece_once_and_both_have_everything(folder_store, slow):
    some, results = works(8), {}
    threads = [
        threading.Thread(target=lambda name=name: results.update({name: run(folder_store, name, some)}))
        for name in ("one", "two")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(slow.made) == sorted(work.call.key for work in some)
    for done in results.values():
        assert {each.status for each in done} == {"done"} and len(done) == len(some)
    elsewhere = [each for done in results.values() for each in done if each.reason == MADE_ELSEWHERE]
    assert len(elsewhere) == len(some)
    assert leases(folder_store) == []


def test_what_another_run_is_at_comes_last_and_the_rest_goes_on(folder_store, slow):
    some = works(3)
    name = layout.stage_lease(SCOPE, "personalize", some[0].call.key)
    held = RunLease.try_take(folder_store, "other", name)
    order, ended = [], threading.Event()

    def on_done(done):
        order.append(done.work.subject)
        if len(order) == 2:
            cache = StageCache(folder_store, SCOPE)
            cache.commit(some[0].call, {"x": Output(b"theirs", "x/y")}, {})
            held.drop()
            ended.set()

    executor(folder_store, "mine").execute(some, lambda *_: None, on_done, lambda: False)
    assert order == ["person-1", "person-2", "person-0"] and ended.is_set()
    assert some[0].call.key not in slow.made


def test_a_worker_that_fails_lets_go_and_the_other_tries(folder_store, slow):
    (work,) = works(1)
    slow.fails = ValueError("broken")
    assert [done.status for done in run(folder_store, "one", [work])] == ["failed"]
    assert leases(folder_store) == []
    slow.fails = None
    assert [done.status for done in run(folder_store, "two", [work])] == ["done"]


@pytest.mark.parametrize(
    ("error", "attempts"),
    [(ValueError("broken"), 3), (SlotStopped("diverged"), 1), (ConstantPictures(3, 4), 1)],
    ids=["anything", "diverged", "constant"],
)
def test_what_may_pass_is_tried_again_under_one_lease_at_a_time(
    folder_store, slow, monkeypatch, error, attempts
):
    taken, dropped = [], []
    take, drop = RunLease.try_take, RunLease.drop
    monkeypatch.setattr(RunLease, "try_take", lambda *a: taken.append(len(taken) - len(dropped)) or take(*a))
    monkeypatch.setattr(RunLease, "drop", lambda lease: dropped.append(1) or drop(lease))
    slow.fails = error
    (done,) = run(folder_store, "one", works(1), attempts=3)
    assert (done.status, done.reason, done.attempts) == ("failed", type(error).__name__, attempts)
    assert len(slow.made) == attempts and taken == [0] * attempts, "the lease before was let go of"
    assert leases(folder_store) == [] and {"SlotStopped", "ConstantPictures"} == UNLEARNABLE


@pytest.mark.parametrize("how", ["ran out", "its process is gone", "its clock is ahead"])
def test_a_stale_lease_is_taken_over(folder_store, slow, how):
    (work,) = works(1)
    name = layout.stage_lease(SCOPE, "personalize", work.call.key)
    record = json.loads(own_record("dead", "x", 0.2).to_bytes()) | {"process_token": "", "host": "another"}
    if how == "ran out":
        record["renewed"] = time.time() - 10
    elif how == "its process is gone":
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        import socket

        record |= {"host": socket.gethostname(), "process": gone.pid, "ttl": 600.0, "renewed": time.time()}
    else:
        record["renewed"] = time.time() + 1e6
    folder_store.put_if_absent(name, canonical_json(record))
    (done,) = run(folder_store, "mine", [work])
    assert (done.status, done.reason) == ("done", None) and slow.made == [work.call.key]
    assert leases(folder_store) == []


def test_a_store_without_leases_stops_nothing(folder_store, slow, monkeypatch):
    from faceid_core.errors import StoreError

    def refused(*_, **__):
        raise StoreError("no lease today")

    monkeypatch.setattr(RunLease, "try_take", refused)
    assert [done.status for done in run(folder_store, "mine", works(2))] == ["done", "done"]


def test_short_stages_take_no_lease(folder_store, slow, monkeypatch):
    monkeypatch.setattr(RunLease, "try_take", lambda *_, **__: pytest.fail("a lease for a short stage"))
    assert [done.status for done in run(folder_store, "mine", works(2, "mask"))] == ["done", "done"]


def test_a_night_that_shares_runs_beside_the_other_and_both_are_seen(folder_store):
    with RunLease.acquire(folder_store, "first"):
        beside = RunLease.acquire(folder_store, "second", on_busy="share")
        try:
            assert sorted(running_runs(folder_store)) == ["first", "second"]
            assert json.loads(folder_store.get(NAME))["run_id"] == "first"
        finally:
            beside.release()
        assert running_runs(folder_store) == ["first"]
    assert running_runs(folder_store) == []
    assert [info.name for info in folder_store.list("leases/")] == [NAME]
    with RunLease.acquire(folder_store, "third", on_busy="share") as alone:
        assert alone.name == NAME
