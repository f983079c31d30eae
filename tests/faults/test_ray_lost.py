"""The real command under Prefect and Ray, while a worker or Ray's head is killed, or it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from faceid_core.run.records import read_status
from faceid_core.store import open_store
from faceid_core.store.lease import running_runs
from faceid_core.tables import Tables
from tests.helpers.aftermath import run_again
from tests.helpers.fault_counts import FaultRecord
from tests.helpers.killed import night_in_a_child

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(1800)]
WAIT_SECONDS = 300
GONE_SECONDS = 30  # for a stopped run to end, and its processes with it
STOPS = {
    "ctrl-c": (signal.SIGINT, False),
    "ctrl-c in a terminal": (signal.SIGINT, True),
    "terminated": (signal.SIGTERM, False),
    "terminated by a service manager": (signal.SIGTERM, True),
    "its terminal closed": (signal.SIGHUP, False),
}
POINTS = ["worker in training", "worker in generation", "head", *STOPS]
LONG = {  # long enough to be caught in the middle
    "personalize": {"method": {"steps": 40, "samples_per_step": 5}},
    "generate": {"seeds": 6, "steps": 10},
}


@pytest.fixture(scope="module")
def undisturbed_long(night_on):
    """What the longer run comes to in one process on a store of its own."""
    report = night_in_a_child(night_on("undisturbed-long", **LONG)).report
    assert report["exit_status"] == 0
    return report


class Command:
    """`faceid run` of a configuration in a process of its own, with a Prefect server and a Ray that it starts."""

    def __init__(self, config, folder: Path):
        (folder / "night.json").write_text(config.model_dump_json())
        (folder / "prefect").mkdir(exist_ok=True)
        environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "RAY_USAGE_STATS_ENABLED": "0"}
        environment.pop("PREFECT_API_URL", None)
        self.log = folder / "log"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows", "run", "--config", str(folder / "night.json")],
            env=environment, stdout=self.log.open("ab"), stderr=subprocess.STDOUT, start_new_session=True,
            # A shell that runs the tests in the background ignores Ctrl-C, and a child inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        self._store = open_store(config.store)

    def wait_for(self, folder: str) -> None:
        """Wait until an object stands in a folder of a person's, which says what the run is at."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not any(f"/{folder}/" in info.name for info in self._store.list("identities/")):
            assert self._process.poll() is None and time.monotonic() < deadline, self.told()
            time.sleep(0.05)

    def descendants(self, name: str) -> list[psutil.Process]:
        """Processes of this run whose command begins so."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.Error, IndexError):
                if Path(process.cmdline()[0]).name.startswith(name):
                    found.append(process)
        return found

    def stop(self, what: int, *, whole_tree: bool) -> list[psutil.Process]:
        """Send the command a signal, or all its processes at once; returns them."""
        top = psutil.Process(self._process.pid)
        family = [top, *top.children(recursive=True)]
        for process in family if whole_tree else [top]:
            with suppress(psutil.Error):
                process.send_signal(what)
        return family

    def exit_status(self) -> int:
        """Wait for its end."""
        try:
            return self._process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it hangs: {self.told()}") from None

    def told(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-3000:]

    def end(self) -> None:
        """Leave none of its processes behind."""
        left = []
        with suppress(psutil.Error):
            top = psutil.Process(self._process.pid)
            left = [top, *top.children(recursive=True)]
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        self._process.wait()


@pytest.fixture
def command(night_on, tmp_path):
    """Start the command; it is ended with the test."""
    config = night_on(f"ray-{tmp_path.name}", execution={"executor": "ray", "workers": 1}, **LONG)
    started: list[Command] = []

    def start() -> Command:
        started.append(Command(config, tmp_path))
        return started[-1]

    start.config = config
    yield start
    for each in started:
        each.end()


def ends_like(night_on, command, undisturbed: dict, point: str) -> None:
    """Require that what stands in the store now is whole and the undisturbed run's."""
    record = FaultRecord("ray-and-ctrl-c")
    record.left(POINTS)
    inline = night_on(command.config.store, **LONG)
    compared = run_again(inline, undisturbed, point)
    record.add(point, faults=1, runs=1, compared=compared)


@pytest.mark.parametrize(
    ("folder", "point"), [("checkpoints", "worker in training"), ("leases/generate", "worker in generation")]
)
def test_a_worker_killed_in_the_middle_is_replaced(night_on, undisturbed_long, command, folder, point):
    run = command()
    run.wait_for(folder)
    (worker,) = run.descendants("ray::StageActor")
    worker.kill()
    assert run.exit_status() == 0, run.told()
    (row,) = Tables(open_store(command.config.store)).read("runs").to_pylist()
    assert row["done"] == 1 and row["workers_replaced"] == 1
    ends_like(night_on, command, undisturbed_long, point)


def test_a_lost_head_ends_the_night_and_the_next_one_goes_on(night_on, undisturbed_long, command):
    run = command()
    run.wait_for("checkpoints")
    (head,) = run.descendants("gcs_server")
    head.kill()
    # A driver notices after up to a minute; a run whose work is done by then has its results and says so.
    ended_well, again = run.exit_status() == 0, command()
    assert again.exit_status() == 0
    assert not ended_well or "nothing was recomputed" in again.told(), again.told()
    ends_like(night_on, command, undisturbed_long, "head")


@pytest.mark.parametrize("point", STOPS)
def test_a_stopped_night_leaves_an_account_and_the_next_one_goes_on(
    night_on, undisturbed_long, command, point
):
    what, whole_tree = STOPS[point]
    run = command()
    run.wait_for("checkpoints")
    family, began = run.stop(what, whole_tree=whole_tree), time.monotonic()
    assert run.exit_status() == 130, run.told()
    assert time.monotonic() - began < GONE_SECONDS, run.told()
    _, alive = psutil.wait_procs(family, timeout=GONE_SECONDS)
    assert not alive, "no process is left behind"
    store = open_store(command.config.store)
    (row,) = Tables(store).read("identity_outcomes").to_pylist()
    # The pool answers for works that it had; the run for works that it had not handed out.
    assert (row["outcome"], row["reason"]) in (("not_reached", "stopped"), ("not_reached", "interrupted"))
    (run,) = Tables(store).read("runs").to_pylist()
    assert read_status(store, run["run_id"])["state"] == "interrupted" and not running_runs(store)
    assert command().exit_status() == 0
    ends_like(night_on, command, undisturbed_long, point)
