"""The seconds that a worker enters for each person of a batch."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from faceid_core.errors import FaceidError
from faceid_core.stages import worker as worker_module
from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.work import Work
from faceid_core.stages.worker import Worker
from faceid_core.store import FolderStore, Output, S3Settings
from faceid_core.store.keys import StageCall

TAKES = {"ann": 3.0, "bob": 5.0, "cyd": 11.0}


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a stage says so."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(worker_module, "time", SimpleNamespace(monotonic=lambda: now.seconds, time=time.time))
    return now


def seconds(tmp_path, monkeypatch, execute) -> dict[str, float]:
    """Person -> seconds of a batch of three."""
    monkeypatch.setattr(worker_module, "stage_function", lambda name: execute)
    FolderStore(str(tmp_path / "store"))
    settings = WorkerSettings(
        str(tmp_path / "store"),
        S3Settings(),
        "float32",
        "cpu",
        "miniature",
        scorers="miniature",
        slots=1,
        batch=1,
        threads=0,
    )
    works = [
        Work(name, "common", StageCall("detect", 1, {"who": name}, "float32", {}, {}), {}, "detect")
        for name in TAKES
    ]
    worker = Worker(settings, "run")
    return {done.work.subject: done.seconds for done in worker.execute(works)}


def test_each_person_gets_the_time_since_the_one_before(tmp_path, monkeypatch, clock):
    def execute(works, inputs, models, on_progress):
        for index, work in enumerate(works):
            clock.seconds += TAKES[work.subject]
            yield index, FaceidError("no") if work.subject == "bob" else {"a": Output(b"x", "text/plain")}, {}

    assert seconds(tmp_path, monkeypatch, execute) == TAKES


def test_people_who_end_together_get_the_shares_that_their_stage_tells(tmp_path, monkeypatch, clock):
    def execute(works, inputs, models, on_progress):
        clock.seconds += 30.0
        for index, work in enumerate(works):
            yield index, {"a": Output(b"x", "text/plain")}, {"share_seconds": TAKES[work.subject]}

    assert seconds(tmp_path, monkeypatch, execute) == TAKES
