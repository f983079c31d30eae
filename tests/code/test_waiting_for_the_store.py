"""A run that waits for another use of its store says for whom, and is refused at its deadline; a clock may be set."""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
import time
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner

from data_contracts import contract
from faceid_core.config import NightlyConfig, changed, parse_config
from faceid_core.nightly import close_outcome_reports
from faceid_core.publish.rows import outcome_tables
from faceid_core.run.open import LeaseWait, open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.run.state import finish_by_moment, past_finish_by
from faceid_core.store import RunLease, StoreBusy, Wait, lease
from faceid_core.store.keys import canonical_json
from faceid_core.store.lease import NAME, running_runs
from faceid_core.store.lease_record import own_record
from faceid_core.upkeep.gc import collect
from flows.cli import cli
from flows.deployments import NIGHTLY_WAITS_MINUTES, OFFERS
from tests.helpers.pretend_night import pretend_config, write_manifest
from tests.helpers.stepped_clock import SteppedClock

NOON = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)


@pytest.fixture
def config(tmp_path):
    return pretend_config(str(tmp_path / "store"), write_manifest(tmp_path / "people", 1))


def other(seconds: float, *, in_doubt: bool = False, run_id: str = "20261125-nightly-a") -> Wait:
    return Wait(run_id, "node-7", seconds, in_doubt, 60.0)


def patience(said: list[str], scheduled: dt.datetime = NOON, **run) -> LeaseWait:
    return LeaseWait(parse_config({"run": run}), "file:///store", scheduled, said.append)


def test_it_says_for_whom_it_waits_and_until_when():
    said: list[str] = []
    wait = patience(said, busy_wait_minutes=240)
    for seconds in (0.0, 5.0, 300.0, 599.0, 601.0, 700.0):
        wait(other(seconds))
    wait(other(705.0, run_id="20261125-nightly-b"))
    wait(other(710.0, run_id="20261125-nightly-b", in_doubt=True))
    whom = "run 20261125-nightly-a on node-7, which is using the same store (at most 240 min)"
    assert said[:2] == [f"waiting for {whom}", f"waiting for 10 min for {whom}"]
    assert "20261125-nightly-b" in said[2] and len(said) == 4
    assert "may be dead: watching it for up to 60 s" in said[3]


def test_it_gives_up_at_its_deadline_but_not_before_a_holder_in_doubt_is_judged():
    said: list[str] = []
    wait = patience(said, busy_wait_minutes=1)
    wait(other(59.9))
    wait(other(61.0, in_doubt=True))
    with pytest.raises(
        StoreBusy, match=r"20261125-nightly-a on node-7 is still using .*busy_wait_minutes is 1"
    ):
        wait(other(61.0))
    patience(said)(other(1e6))  # without a limit it waits on
    past = dt.datetime.now(dt.UTC) - dt.timedelta(hours=30)
    with pytest.raises(StoreBusy, match=r"run.finish_by, .* has passed"):
        patience(said, past, finish_by=f"{past + dt.timedelta(hours=1):%H:%M}")(other(1.0))
    ahead = dt.datetime.now(dt.UTC)
    patience(said, ahead, finish_by=f"{ahead + dt.timedelta(hours=1):%H:%M}")(other(1.0))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lease, "_LONGEST_POLL_SECONDS", 0.05)


def test_a_run_waits_is_shown_and_begins_when_the_store_is_free(config, quick, folder_store):
    config = changed(config, {"run.on_busy": "wait", "run.busy_wait_minutes": 1}, source="test")
    with RunLease.acquire(folder_store, "first") as first:
        said, runs = [], []
        thread = threading.Thread(
            target=lambda: runs.append(open_run(config, LogReporter(), report_wait=said.append))
        )
        thread.start()
        deadline = time.monotonic() + 30
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "run first on " in said[0] and "at most 1 min" in said[0]
        (queued,) = lease.waiting_runs(folder_store)
        assert running_runs(folder_store) == ["first"], "a run that waits holds nothing"
        # A store that has no finished run yet has no status to show; another one gives it.
        first_request = {"run_id": "first", "started_at": "2026-11-25T22:00:00+00:00"}
        folder_store.put_if_absent("runs/first/request.json", canonical_json(first_request))
        shown = CliRunner().invoke(cli, ["status", "--store", folder_store.url])
        assert f"run {queued.run_id} on {queued.host} waits for run first on {queued.host}" in shown.output
        first.release()
        thread.join(30)
    (run,) = runs
    assert run.run_id == queued.run_id and lease.waiting_runs(folder_store) == []
    run.release()
    assert [info.name for info in folder_store.list("leases/")] == [NAME]


def test_a_consent_that_ends_while_a_run_waits_for_the_store_is_over(tmp_path, monkeypatch):
    """Asked on the last day of the consent, begun two days later."""
    manifest = write_manifest(tmp_path / "people", 1)
    last_day = dt.datetime.now(dt.UTC).date()
    manifest.write_text(f"identity_id,photo,class_word,consent_until\nann,000000.png,person,{last_day}\n")
    clock, acquire = SteppedClock().install(monkeypatch.setattr), RunLease.acquire

    def acquired_later(*given, **options):
        clock.seconds = 2 * 86_400
        return acquire(*given, **options)

    monkeypatch.setattr(RunLease, "acquire", acquired_later)
    run = open_run(pretend_config(str(tmp_path / "store"), manifest), LogReporter())
    run.release()
    (outcome_report,) = run.outcome_reports.values()
    assert outcome_report.reason == "consent_expired" and run.run_date == last_day


def test_a_run_that_has_waited_long_enough_is_refused_and_leaves_nothing(config, quick, folder_store):
    config = changed(config, {"run.on_busy": "wait", "run.busy_wait_minutes": 0.001}, source="test")
    with RunLease.acquire(folder_store, "first"), pytest.raises(StoreBusy, match=r"run first on .* 0\.001"):
        open_run(config, LogReporter())
    assert [info.name for info in folder_store.list("leases/")] == [NAME]
    assert not list(folder_store.list("runs/"))


def test_the_nightly_deployment_waits_and_a_run_by_hand_does_as_configured():
    nightly = next(offer for offer in OFFERS if offer.name == "nightly")

    def begins_with(**run) -> tuple:
        config = parse_config({"run": run})
        offered = NightlyConfig.model_validate(nightly.parameters(config)["config"]).run
        return offered.on_busy, offered.busy_wait_minutes

    assert NightlyConfig().run.on_busy == "refuse"
    assert begins_with() == begins_with(on_busy="refuse") == ("wait", NIGHTLY_WAITS_MINUTES)
    assert begins_with(busy_wait_minutes=0) == ("wait", 0)
    assert begins_with(on_busy="share") == ("share", None)


def test_leases_that_dead_runs_left_are_collected(folder_store):
    record = json.loads(own_record("dead", "x", 60.0).to_bytes()) | {"host": "another", "renewed": 1.0}
    for name in ("leases/beside-dead.json", "leases/waits-dead.json"):
        folder_store.put_if_absent(name, canonical_json(record | {"ttl": 0.2}))
        os.utime(folder_store.root / name, (1, 1))
    with RunLease.acquire(folder_store, "alive"):
        found = collect(folder_store, delete=True)
    assert found.counts["abandoned lease"] == 2
    assert [info.name for info in folder_store.list("leases/")] == [NAME]


@pytest.mark.parametrize("step", [-3600.0, 3600.0], ids=["back", "ahead"])
def test_a_clock_that_is_set_in_the_run_changes_no_duration(config, monkeypatch, step):
    clock = SteppedClock().install(monkeypatch.setattr)
    run = open_run(config, LogReporter())
    try:
        clock.seconds = step
        close_outcome_reports(run, "test")
        (row,) = outcome_tables(run, exit_status=0)["runs"].to_pylist()
        contract("runs").check(outcome_tables(run, exit_status=0)["runs"])
    finally:
        run.release()
    assert 0 <= row["seconds"] < 60
    assert row["finished_at"] - row["started_at"] == dt.timedelta(seconds=row["seconds"])
    assert abs(dt.datetime.now(dt.UTC) - row["started_at"]) > dt.timedelta(minutes=50), "the clock was set"


def test_finish_by_is_read_from_the_wall_clock_whenever_it_is_asked(monkeypatch):
    clock = SteppedClock().install(monkeypatch.setattr)
    start = dt.datetime.now(dt.UTC)
    finish_by = f"{start + dt.timedelta(minutes=30):%H:%M}"
    config = parse_config({"run": {"finish_by": finish_by}})
    asked = []
    for clock.seconds in (0.0, 3600.0, 0.0):
        asked.append(past_finish_by(config, start))
    assert asked == [False, True, False]


def test_finish_by_does_not_come_back_when_summer_time_ends(monkeypatch):
    """02:30 is there twice on that run; the first one ends the admissions for good."""
    config = parse_config({"run": {"finish_by": "02:30", "timezone": "Europe/Berlin"}})
    zone = ZoneInfo("Europe/Berlin")
    scheduled = dt.datetime(2026, 10, 24, 22, tzinfo=zone)
    end = finish_by_moment(config, scheduled)
    assert end == dt.datetime(2026, 10, 25, 0, 30, tzinfo=dt.UTC)
    clock = SteppedClock().install(monkeypatch.setattr)
    asked = []
    for now in ("00:29", "00:31", "01:05", "01:31"):
        clock.seconds = 0.0
        then = dt.datetime.fromisoformat(f"2026-10-25T{now}:00+00:00")
        clock.seconds = (then - dt.datetime.now(dt.UTC)).total_seconds()
        asked.append(past_finish_by(config, scheduled))
    assert asked == [False, True, True, True]
