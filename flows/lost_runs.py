"""Flow runs whose end Prefect was not told: remembered while they run, closed when `faceid serve` starts again."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from faceid_core.store.lease_record import process_place

log = logging.getLogger(__name__)

OWN_SERVER = "started by faceid serve"
MESSAGE = (
    "Its process ended with an earlier `faceid serve`, and Prefect was not told. What was finished is in the store; "
    "run it again and it goes on from there."
)
_RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"

_PAGE = 200  # what the server gives at once


@dataclass(frozen=True)
class StartedRun:
    """A flow run's process, as another process can recognize it later.

    Args:
        run_id: The flow run.
        server: Which Prefect server knows it: an address, or OWN_SERVER.
        pid: Its process.
        host: Name of its machine.
        boot: The machine's boot.
        namespace: Of process ids; containers of one machine have several.
    """

    run_id: str
    server: str
    pid: int
    host: str
    boot: str
    namespace: str

    def is_running(self) -> bool | None:
        """Whether its process lives; None where that cannot be seen from here."""
        here = started_here(self.run_id, self.server, self.pid)
        if self.host != here.host:
            return None
        if self.boot != here.boot:
            return False if here.boot else None
        return _is_running(self.pid, self.run_id) if self.namespace == here.namespace else None


def started_here(run_id: str, server: str, pid: int) -> StartedRun:
    """The record of a process of this machine."""
    here = process_place()
    boot, namespace = here.get("boot_id", ""), here.get("pid_namespace", "")
    return StartedRun(run_id, server, pid, socket.gethostname(), boot, namespace)


def _is_running(pid: int, run_id: str) -> bool:
    """Whether the process exists and is that run's: a process id is given to others later."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except PermissionError:
        return False  # another user's
    except OSError:
        if Path("/proc/self/environ").exists():
            return False
        with suppress(OSError):
            os.kill(pid, 0)
            return True
        return False
    return f"{_RUN_VARIABLE}={run_id}".encode() in environment.split(b"\x00")


class StartedRuns:
    """The records of one Prefect server's runs, a file each in this user's state folder.

    Args:
        server: The server's address, or OWN_SERVER.
    """

    def __init__(self, server: str):
        self._server = server
        base = os.environ.get("XDG_STATE_HOME")
        self._folder = (Path(base) if base else Path.home() / ".local" / "state") / "faceid" / "started-runs"

    def remember(self, run_id: Any, pid: int) -> None:
        """Keep that this process runs this flow run; it runs all the same where that cannot be kept."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            record = started_here(str(run_id), self._server, pid)
            self._file(run_id).write_text(json.dumps(asdict(record)))
        except OSError as error:
            log.warning("flow run %s is not remembered in %s: %s", run_id, self._folder, error.strerror)

    def forget(self, run_id: Any) -> None:
        """Its end was told."""
        with suppress(OSError):
            self._file(run_id).unlink()

    def __iter__(self):
        for file in sorted(self._folder.glob("*.json")):
            try:
                record = StartedRun(**json.loads(file.read_text()))
            except (OSError, ValueError, TypeError):
                with suppress(OSError):
                    file.unlink()  # torn by a crash
                continue
            if record.server == self._server:
                yield record

    def _file(self, run_id: Any) -> Path:
        return self._folder / f"{UUID(str(run_id))}.json"


def close_lost_runs(
    client: Any, started: StartedRuns, deployments: Iterable[UUID], *, own: bool
) -> list[str]:
    """Tell Prefect of runs that ended untold, which also frees the places that they hold in their deployments.

    To be called before the first run is started: a place is given back by the run that holds it, and by then no
    successor can have taken it.

    Args:
        client: A synchronous client.
        started: What earlier processes started.
        deployments: Those that are served here.
        own: The server is started by `faceid serve`, so nothing else runs its deployments: a run without a living
            process is lost. On a server that others use too, only runs that this machine started are judged.

    Returns:
        The names of the runs that were closed.
    """
    records = {record.run_id: record.is_running() for record in started}
    closed = []
    for run in _unfinished(client, deployment_id={"any_": list(deployments)}):
        alive = records.get(str(run.id))
        if alive or (alive is None and not own):
            continue
        for part in [*_unfinished(client, parent_flow_run_id={"any_": [run.id]}), run]:
            _close(client, part)
        closed.append(run.name)
    for run_id, alive in records.items():
        if alive is False or (own and not alive):
            started.forget(run_id)
    return closed


def _unfinished(client: Any, **filters: Any) -> list[Any]:
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import StateType

    states = {"type": {"any_": [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]}}
    wanted, found = FlowRunFilter(state=states, **filters), []
    while page := client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE, offset=len(found)):
        found += page
    return found


def _close(client: Any, run: Any) -> None:
    from prefect.states import Cancelled, Crashed

    state = Cancelled if run.state.is_cancelling() else Crashed
    client.set_flow_run_state(run.id, state(message=MESSAGE), force=True)
