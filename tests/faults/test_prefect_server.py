"""The Prefect server restarts, or goes for good, in the middle of a run: the run ends complete all the same."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from faceid_core.run.execute import execute_stage
from faceid_core.run.records import read_status
from faceid_core.run.reporter import LogReporter
from faceid_core.store import open_store
from faceid_core.tables import Tables
from tests.end_to_end.conftest import people, small  # noqa: F401 - fixtures
from tests.helpers.replaced import replace_everywhere

pytestmark = pytest.mark.exhaustive
WAIT_SECONDS = 240


class Server:
    """A Prefect server in a process of its own, on a port and a database that stay the same over its lives."""

    def __init__(self, folder: Path):
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        environment = {
            **os.environ, "PREFECT_HOME": str(self._folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self._folder}/prefect.db",
        }  # fmt: skip
        environment.pop("PREFECT_API_URL", None)
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port)],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=2):
                return
            time.sleep(0.5)
        raise AssertionError("the Prefect server did not start")

    @property
    def process_group(self) -> int:
        """The server's process and those that it started."""
        return self._process.pid

    def kill(self) -> None:
        """As a machine that loses power does; the processes that it started go with it."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@pytest.fixture
def server(tmp_path):
    """A running server that this process talks to."""
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    (tmp_path / "prefect").mkdir()
    server = Server(tmp_path / "prefect")
    server.start()
    try:
        with temporary_settings({PREFECT_API_URL: server.url, PREFECT_CLIENT_MAX_RETRIES: 8}):
            yield server
            # Events that are left would be tried one by one when the tests' process ends.
            EventsWorker.drain_all(timeout=30)
    finally:
        server.kill()


def at_stage(monkeypatch, stage: str, act) -> list[str]:
    """Do something when a stage begins to compute; returns the list that then names it."""
    done = []

    def execute(run, this, works, executor):
        if this == stage and not done:
            done.append(this)
            act()
        return execute_stage(run, this, works, executor)

    replace_everywhere(monkeypatch, execute_stage, execute)
    return done


def assert_complete(run, finished) -> None:
    assert finished.exit_status == 0
    assert {str(outcome_report.outcome) for outcome_report in run.outcome_reports.values()} == {"done"}
    record = read_status(run.store, run.run_id)
    assert record["state"] == "complete" and record["outcomes"]["done"] == 2
    assert Tables(run.store).read("runs")["run_id"].to_pylist() == [run.run_id]


def test_a_server_that_restarts_sees_the_run_to_its_end(server, small, people, tmp_path, monkeypatch):  # noqa: F811
    from prefect.client.orchestration import get_client

    from flows.nightly import run_with_prefect

    back = threading.Thread(target=server.start)

    def restart():
        server.kill()
        back.start()

    done = at_stage(monkeypatch, "personalize", restart)
    run, finished = run_with_prefect(small(str(tmp_path / "store"), people, executor="inline"), LogReporter())
    back.join()
    assert done == ["personalize"]
    assert_complete(run, finished)
    with get_client(sync_client=True) as client:
        states = {run.name: run.state_name for run in client.read_flow_runs(limit=50)}
    assert [state for name, state in states.items() if name.startswith("small-")] == ["Completed"]
    assert states[f"score-{run.run_id}"] == "Completed", "what came after the restart is seen again"


STAYS_AWAY = """
import os, signal, sys
from faceid_core.config import NightlyConfig
from faceid_core.run import execute
from faceid_core.run.reporter import LogReporter

whole = execute.execute_stage

def execute_stage(run, stage, works, executor):
    if stage == "parse":
        os.killpg(int(sys.argv[2]), signal.SIGKILL)
    return whole(run, stage, works, executor)

execute.execute_stage = execute_stage  # before the flow's modules take it by name

from flows.cli import leave
from flows.nightly import run_with_prefect

run, finished = run_with_prefect(NightlyConfig.model_validate_json(sys.argv[1]), LogReporter())
print(run.run_id, flush=True)
leave(finished.exit_status)
"""


def test_a_server_that_stays_away_costs_its_view_only(server, small, people, tmp_path):  # noqa: F811
    config = small(str(tmp_path / "store"), people, executor="inline")
    settings = {"PREFECT_API_URL": server.url, "PREFECT_CLIENT_MAX_RETRIES": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", STAYS_AWAY, config.model_dump_json(), str(server.process_group)],
        env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        run_id = process.stdout.readline().strip()
        began = time.monotonic()
        assert process.wait(timeout=WAIT_SECONDS) == 0
        assert time.monotonic() - began < 20, "events that no server takes do not keep the process"
    finally:
        process.kill()
    store = open_store(str(tmp_path / "store"))
    record = read_status(store, run_id)
    assert record["state"] == "complete" and record["outcomes"]["done"] == 2
    assert Tables(store).read("runs")["run_id"].to_pylist() == [run_id]


def test_a_server_that_was_never_there_costs_its_view_only(small, people, tmp_path):  # noqa: F811
    config = tmp_path / "night.json"
    config.write_text(small(str(tmp_path / "store"), people, executor="inline").model_dump_json())
    command = [sys.executable, "-m", "flows", "run", "--config", str(config)]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/api"
        # Inline in the file would do without Prefect: the pool of workers is what a nightly has.
        ended = subprocess.run(
            [*command, "--executor", "ray"], env={**os.environ, "PREFECT_API_URL": url}, timeout=WAIT_SECONDS,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "Prefect is out of reach" in ended.stdout
    store = open_store(str(tmp_path / "store"))
    (run,) = Tables(store).read("runs").to_pylist()
    assert read_status(store, run["run_id"])["state"] == "complete" and run["done"] == 2
