"""A run that is stopped: its outcome report stands before workers and Prefect are told, whatever comes meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from faceid_core import nightly as driving
from faceid_core.nightly import RUNS, RunContext, close_interrupted, drive, executor_on_demand, run_context
from faceid_core.outcomes import Outcome
from faceid_core.publish.publish import publish
from faceid_core.run.executor import left_behind
from faceid_core.run.lookup import lookup_stage
from faceid_core.run.open import open_run
from faceid_core.run.records import read_status
from faceid_core.run.reporter import LogReporter
from faceid_core.stages.work import Done
from faceid_core.store import Output, StageCache, open_store
from faceid_core.store.lease import running_runs
from faceid_core.tables import Tables
from flows.stopping import stopped_like_ctrl_c
from tests.helpers.pretend_night import pretend_config, write_manifest


@pytest.fixture
def run(tmp_path):
    """An open run of two people."""
    run = open_run(
        pretend_config(str(tmp_path / "store"), write_manifest(tmp_path / "people", 2)), LogReporter()
    )
    yield run
    run.release()


def no_executor():
    """Make none: no stage of these runs computes anything."""
    raise AssertionError


def outcomes(store) -> list[dict]:
    return Tables(store).query("select outcome, reason from identity_outcomes").to_pylist()


def test_the_account_stands_before_workers_are_closed_that_hang(run, monkeypatch, caplog):
    monkeypatch.setattr(driving, "STOPPED_CLOSE_SECONDS", 0.2)
    seen, closing, release = [], threading.Event(), threading.Event()

    class Hangs:
        def close(self):
            seen.append((run.ended, len(outcomes(run.store)), running_runs(run.store)))
            closing.set()
            release.wait(20)

    def stopped(stage):
        get()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), executor_on_demand(Hangs) as get:
        drive(RunContext(run, get), stopped)
    assert closing.wait(20)
    assert seen == [(True, 2, [])], "the outcome report stands, and the store is free, before the workers are told"
    assert left_behind() and "left behind" in caplog.text
    release.set()


def test_workers_that_are_still_started_hold_up_no_end(monkeypatch):
    monkeypatch.setattr(driving, "STOPPED_CLOSE_SECONDS", 0.2)
    starting, started, closed = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        def __init__(self):
            starting.set()
            started.wait(20)

        def close(self):
            closed.set()

    with suppress(KeyboardInterrupt), executor_on_demand(Slow) as get:
        threading.Thread(target=get, daemon=True).start()
        starting.wait(20)
        raise KeyboardInterrupt
    assert not closed.is_set()
    started.set()
    assert closed.wait(20), "what was started too late is closed all the same"


def test_a_second_interruption_does_not_lose_the_account(run, monkeypatch):
    whole = driving.publish_interrupted

    def interrupted_again(*arguments):
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.3)
        whole(*arguments)

    monkeypatch.setattr(driving, "publish_interrupted", interrupted_again)
    with pytest.raises(KeyboardInterrupt), run_context(run, no_executor):
        raise KeyboardInterrupt("the first")
    close_interrupted(run, ValueError("comes too late"))
    assert outcomes(run.store) == [{"outcome": "not_reached", "reason": "interrupted"}] * 2
    record = read_status(run.store, run.run_id)
    assert record["state"] == "interrupted" and "the first" in record["error"]
    assert run.run_id not in RUNS


def test_an_interruption_after_the_publication_changes_no_row(run, monkeypatch):
    monkeypatch.setattr(
        "faceid_core.publish.publish.collect_scores", lambda _: ([], [])
    )  # no results to read

    def published_and_interrupted(run):
        for outcome_report in run.outcome_reports.values():
            outcome_report.outcome = Outcome.DONE
            outcome_report.stage_keys.update(personalize="a" * 64, generate="b" * 64)
        publish(run)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(RunContext(run, no_executor), lambda stage: None, published_and_interrupted)
    row = Tables(run.store).query("select exit_status from runs").to_pylist()
    assert row == [{"exit_status": 0}]
    record = read_status(run.store, run.run_id)
    assert (record["state"], record["exit_status"]) == ("complete", 0) and record["index"]
    assert run.ended and running_runs(run.store) == []


def test_an_answer_that_comes_after_the_account_changes_nothing(run):
    (work, *_) = lookup_stage(run, "detect")
    close_interrupted(run, KeyboardInterrupt())
    run.settle("detect", Done(work, "failed", "no_outcome", "late", seconds=5.0))
    run.fail(run.subjects[work.subject], "detect", "late", "late")
    outcome_report = run.outcome_reports[work.subject]
    assert (outcome_report.reason, outcome_report.seconds) == ("interrupted", 0.0) and not run.failures_common
    assert run.fail_unsettled("detect", [work], "not once more") == []


def test_no_way_into_a_written_account_is_open(run):
    (work, *_) = lookup_stage(run, "detect")
    outcome_report, subject = run.outcome_reports[work.subject], run.subjects[work.subject]
    close_interrupted(run, KeyboardInterrupt())
    run.settle("detect", Done(work, "rejected", "no_face", "late", value=1.0, threshold=2.0))
    cache = StageCache(run.store, subject.scope)
    run.adopt(subject, work.result, cache.commit(work.call, {"crop.png": Output(b"crop", "image/png")}, {}))
    assert (outcome_report.reason, outcome_report.value, outcome_report.threshold) == ("interrupted", None, None)
    assert outcome_report.stage_keys == {} and subject.manifests == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_does_what_ctrl_c_does(number):
    before = signal.getsignal(number)
    try:
        signal.signal(number, signal.SIG_DFL)
        with pytest.raises(KeyboardInterrupt), stopped_like_ctrl_c():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)
        with stopped_like_ctrl_c():
            signal.raise_signal(number)  # as under nohup
    finally:
        signal.signal(number, before)


def test_rays_alarm_is_cleared(run):
    signal.alarm(300)
    try:
        close_interrupted(run, KeyboardInterrupt())
        assert signal.alarm(0) == 0
    finally:
        signal.alarm(0)


# Its main thread is somewhere that no exception leaves, as in Prefect's client, or in one long computation.
STUCK = """
import signal, sys, time
from flows import stopping

stopping.ARRIVE_SECONDS, stopping.LINGER_SECONDS, stopping.APART_SECONDS = 0.2, float(sys.argv[1]), 0.3

def stuck(told):
    for number in stopping.STOPS:
        signal.signal(number, lambda *_: None)
    print(told, flush=True)
    time.sleep(60)
"""
WITH_RUN = """
from faceid_core.config import NightlyConfig
from faceid_core.nightly import run_context
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter

with stopping.watched():
    run = open_run(NightlyConfig.model_validate_json(sys.argv[2]), LogReporter())
    with run_context(run, make_executor=lambda: None):
        stuck(run.run_id)
"""
WITHOUT = """
with stopping.watched():
    stuck("here")
"""


@pytest.fixture
def stuck():
    """Start a process with such a main thread; gives it and what it told."""
    started = []

    def start(script: str, linger: float, *arguments: str):
        process = subprocess.Popen(
            [sys.executable, "-c", STUCK + script, str(linger), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_stopped_process_ends_in_time_with_its_account_wherever_it_is(stuck, tmp_path):
    config = pretend_config(str(tmp_path / "store"), write_manifest(tmp_path / "people", 2))
    process, run_id = stuck(WITH_RUN, 0.5, config.model_dump_json())
    process.send_signal(signal.SIGHUP)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on from there" in told
    store = open_store(config.store)
    assert outcomes(store) == [{"outcome": "not_reached", "reason": "interrupted"}] * 2
    assert "SIGHUP" in read_status(store, run_id)["error"]


def test_the_third_signal_ends_a_process_at_once(stuck):
    process, _ = stuck(WITHOUT, 60)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):  # together: one stop
        process.send_signal(number)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None, "the second is left alone"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130
