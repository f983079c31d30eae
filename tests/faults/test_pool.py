"""The Ray pool when workers die, hang or meet a poisoned person: the others finish, and the account says who did not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import ray

from faceid_core.errors import ConfigurationError
from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.work import Done, Work, call_for
from tasks.pool import RayPool


@ray.remote(max_restarts=0, max_task_retries=0)
class TroubledActor:
    """Stands in for a worker: what happens to a subject is written in its name, attempts are counted in a folder."""

    def __init__(self, settings: WorkerSettings, run_id: str):
        self._folder = Path(settings.store)

    def ready(self):
        return True

    def execute(self, works):
        for work in works:
            count = len(list(self._folder.glob(f"{work.subject}-*")))
            (self._folder / f"{work.subject}-{count}-{os.getpid()}").touch()
            yield ("tick", (work.subject, 0, 1))
            if "dies" in work.subject or ("once" in work.subject and count == 0):
                os._exit(9)
            if "hangs" in work.subject:
                time.sleep(600)
            status = "failed" if "fails" in work.subject else "done"
            yield ("done", Done(work, status, reason=None if status == "done" else "it_does"))


class TroubledPool(RayPool):
    actor_class = TroubledActor


@pytest.fixture
def pool(tmp_path):
    settings = WorkerSettings(
        store=str(tmp_path), s3={}, base_source="", precision="float32", device="cpu", faces_backend="",
        scorers="", slots=2, batch=1, threads=1,
    )  # fmt: skip
    made = TroubledPool(settings, "test", workers=1, attempts=2, stall_seconds=10)
    yield made
    made.close()
    assert not ray.is_initialized()


def run(pool, *subjects: str) -> dict[str, Done]:
    works = [
        Work(s, "common", call_for("detect", 1, {"who": s}, {}, {}, "float32"), {}, "detect")
        for s in subjects
    ]
    found: dict[str, Done] = {}

    def on_done(done: Done) -> None:
        assert done.work.subject not in found, "one outcome each"
        found[done.work.subject] = done

    pool.execute(works, lambda *_: None, on_done, lambda: False)
    return found


def test_a_dead_a_stuck_and_a_failing_person_cost_nobody_else(pool):
    found = run(pool, "ann", "once", "dies", "fails", "hangs", "bob")
    assert {name: done.status for name, done in found.items()} == {
        "ann": "done", "once": "done", "dies": "failed", "fails": "failed", "hangs": "failed", "bob": "done",
    }  # fmt: skip
    assert found["once"].attempts >= 2, "the attempt that a dead worker cost is on record"
    assert found["dies"].reason == found["hangs"].reason == "worker_lost"
    assert "no progress" in found["hangs"].message
    assert found["fails"].attempts >= 2 and found["fails"].reason == "it_does"
    assert pool.replaced >= 4, "a worker for each loss"
    again = run(pool, "cleo")
    assert again["cleo"].status == "done", "the pool goes on after all that"


def test_what_was_not_begun_when_the_run_stops_is_not_reached(pool):
    works = [Work(s, "common", call_for("mask", 1, {"who": s}, {}, {}, "float32"), {}, "mask") for s in "abc"]
    found = []
    pool.execute(works, lambda *_: None, found.append, lambda: True)
    assert [done.status for done in found] == ["not_reached"] * 3


def test_an_error_in_the_account_is_raised_and_not_swallowed(pool):
    def on_done(done: Done) -> None:
        raise OSError("the store is gone")

    work = Work("ann", "common", call_for("mask", 1, {}, {}, {}, "float32"), {}, "mask")
    with pytest.raises(OSError, match="the store is gone"):
        pool.execute([work], lambda *_: None, on_done, lambda: False)


def test_more_workers_than_there_is_room_for_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.pool.ACTOR_START_SECONDS", 8)
    settings = WorkerSettings(
        store=str(tmp_path), s3={}, base_source="", precision="float32", device="cpu", faces_backend="",
        scorers="", slots=2, batch=1, threads=os.cpu_count() or 1,
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match="only 1 of 2 workers found room"):
        TroubledPool(settings, "test", workers=2)
    assert not ray.is_initialized()
