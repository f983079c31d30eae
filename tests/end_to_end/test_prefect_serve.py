"""What `faceid serve` serves with, on a real Prefect server: stopped and killed with a run under way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from flows.crashed_runs import RunProcesses, mark_crashed_runs
from tests.helpers.waiting import WAIT_SECONDS, within_time

pytestmark = pytest.mark.exhaustive
ROOT = Path(__file__).parents[2]
SERVE = """
import asyncio, sys
from prefect.flows import EntrypointType
from flows import graceful_runner
from flows.deployments import ONE_AT_A_TIME
from flows.crashed_runs import RunProcesses
from tests.helpers.slow_flow import slow

graceful_runner.STOP_SECONDS = float(sys.argv[1])
runner = graceful_runner.GracefulRunner(RunProcesses("test"), lambda line: print(line, flush=True))
runner.query_seconds = 1
deployment = slow.to_deployment("slow", concurrency_limit=ONE_AT_A_TIME, entrypoint_type=EntrypointType.MODULE_PATH)
print(runner.add_deployment(deployment), flush=True)
asyncio.run(runner.serve())
"""


@pytest.fixture
def client(prefect_server):
    """A client of the server."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(autouse=True)
def states(monkeypatch, tmp_path):
    """Where started runs are remembered."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


class Serving:
    """A process that serves the slow flow."""

    def __init__(self, client, folder: Path, stop_seconds: float = 60):
        from prefect.settings import PREFECT_API_URL

        self.client, self.folder = client, folder
        folder.mkdir()
        environment = {
            **os.environ,
            "PREFECT_API_URL": PREFECT_API_URL.value(),
            "PYTHONPATH": str(ROOT),
            "PREFECT_HOME": str(folder / "prefect"),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(stop_seconds)],
            env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        self.deployment = self.process.stdout.readline().strip()

    def start_run(self, name: str = "run", **parameters):
        """Start a run by hand, and wait until it is in the middle of its stage."""
        folder = self.folder / name
        folder.mkdir()
        run = self.client.create_flow_run_from_deployment(
            self.deployment, parameters={"folder": str(folder), **parameters}
        )
        within_time((folder / "began").exists, f"{name}'s beginning")
        return run, folder

    def pid_of(self, run) -> int:
        (record,) = [each for each in RunProcesses("test") if each.run_id == str(run.id)]
        return record.pid

    def state(self, run):
        return self.client.read_flow_run(run.id).state

    def parts(self, run) -> list[str]:
        from prefect.client.schemas.filters import FlowRunFilter

        found = self.client.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id={"any_": [run.id]})
        )
        return [part.state.type.value for part in found]

    def places_taken(self) -> int:
        return self.client.read_deployment(self.deployment).global_concurrency_limit.active_slots

    def end(self) -> None:
        for record in RunProcesses("test"):
            with suppress(ProcessLookupError):
                os.killpg(record.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def serving(client, tmp_path):
    """Start a serving process; it is ended with the test."""
    begun: list[Serving] = []

    def start(**options) -> Serving:
        begun.append(Serving(client, tmp_path / f"serving-{len(begun)}", **options))
        return begun[-1]

    yield start
    for each in begun:
        each.end()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_serve_that_is_stopped_ends_its_run_with_an_account_and_tells_prefect(serving, by):
    served = serving()
    run, folder = served.start_run()
    assert served.places_taken() == 1
    # As a terminal does: its whole process group, of which the run must be no member.
    os.killpg(served.process.pid, by)
    assert served.process.wait(WAIT_SECONDS) == 0
    assert (folder / "outcome report").exists(), "the run had no time to write its outcome report"
    assert served.state(run).is_crashed() and served.parts(run) == ["CRASHED"]
    assert served.places_taken() == 0


def test_a_run_that_does_not_end_is_killed_and_told(serving):
    served = serving(stop_seconds=3)
    run, folder = served.start_run(stubborn=True)
    served.process.terminate()
    assert served.process.wait(WAIT_SECONDS) == 0
    assert not (folder / "outcome report").exists() and served.state(run).is_crashed()
    assert served.places_taken() == 0


def test_a_second_signal_does_not_wait(serving):
    served = serving()
    run, _ = served.start_run(stubborn=True)
    served.process.terminate()
    assert "ending a run" in served.process.stdout.readline()
    time.sleep(1.5)  # what comes within a second is one stop, sent twice
    began = time.monotonic()
    served.process.terminate()
    assert served.process.wait(WAIT_SECONDS) == 0 and time.monotonic() - began < 45
    assert served.state(run).is_crashed()


def test_runs_that_were_killed_with_serve_are_closed_at_its_next_start_and_living_ones_are_not(
    serving, client
):
    served = serving()
    run, _ = served.start_run()
    served.process.kill()
    served.process.wait()
    started = RunProcesses("test")
    assert mark_crashed_runs(client, started, [served.deployment], own=True) == [], "its process lives"
    assert served.state(run).is_running() and served.places_taken() == 1

    pid = served.pid_of(run)
    os.killpg(pid, signal.SIGKILL)
    within_time(lambda: not Path(f"/proc/{pid}").exists(), "its end")
    assert mark_crashed_runs(client, RunProcesses("another"), [served.deployment], own=False) == []
    assert served.state(run).is_running(), "another machine's runs are not judged"
    assert mark_crashed_runs(client, started, [served.deployment], own=False) == [run.name]
    state = served.state(run)
    assert state.is_crashed() and "run it again" in state.message and served.parts(run) == ["CRASHED"]
    assert served.places_taken() == 0 and not list(started)
