"""Flow runs whose process ended without telling Prefect: `faceid serve` marks them Crashed at its next start.

While a run is under way, a file remembers its process.
"""

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

from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelled, Crashed

from faceid_core.private import user_folder
from faceid_core.store.lease_record import process_place

log = logging.getLogger(__name__)

OWN_SERVER = "started by faceid serve"
MESSAGE = (
    "Its process ended with an earlier `faceid serve` without telling Prefect. What was finished is in the store; "
    "run it again and it goes on from there."
)
_RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"

_PAGE = 200  # the most that the server returns at once


@dataclass(frozen=True)
class RunProcess:
    """The process of a flow run, recorded so that another process can recognize it later.

    Args:
        run_id: The flow run.
        server: The Prefect server of the run: an address, or OWN_SERVER.
        pid: Its process id.
        host: Name of its machine.
        boot: Id of the machine's boot.
        namespace: Namespace of process ids; containers of one machine have several.
    """

    run_id: str
    server: str
    pid: int
    host: str
    boot: str
    namespace: str

    def is_running(self) -> bool | None:
        """Whether the process exists; None where this process cannot know."""
        here = process_of_this_machine(self.run_id, self.server, self.pid)
        if self.host != here.host:
            return None
        if self.boot != here.boot:
            return False if here.boot else None
        return _is_running(self.pid, self.run_id) if self.namespace == here.namespace else None


def process_of_this_machine(run_id: str, server: str, pid: int) -> RunProcess:
    """The record of a process of this machine."""
    here = process_place()
    boot, namespace = here.get("boot_id", ""), here.get("pid_namespace", "")
    return RunProcess(run_id, server, pid, socket.gethostname(), boot, namespace)


def _is_running(pid: int, run_id: str) -> bool:
    """Whether the process exists and belongs to the run: process ids are used again."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except PermissionError:
        return False  # it belongs to another user
    except OSError:
        if Path("/proc/self/environ").exists():
            return False
        with suppress(OSError):
            os.kill(pid, 0)
            return True
        return False
    return f"{_RUN_VARIABLE}={run_id}".encode() in environment.split(b"\x00")


class RunProcesses:
    """The records of one Prefect server's runs, a file for each in this user's state folder.

    Args:
        server: The server's address, or OWN_SERVER.
    """

    def __init__(self, server: str):
        self._server = server
        self._folder = user_folder("XDG_STATE_HOME", ".local/state") / "faceid" / "started-runs"

    def remember(self, run_id: Any, pid: int) -> None:
        """Record the process of a flow run; a record that cannot be written is logged, and the run goes on."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            record = process_of_this_machine(str(run_id), self._server, pid)
            self._file(run_id).write_text(json.dumps(asdict(record)))
        except OSError as error:
            log.warning("flow run %s is not recorded in %s: %s", run_id, self._folder, error.strerror)

    def forget(self, run_id: Any) -> None:
        """Remove the record of a run whose end Prefect knows."""
        with suppress(OSError):
            self._file(run_id).unlink()

    def __iter__(self):
        for file in sorted(self._folder.glob("*.json")):
            try:
                record = RunProcess(**json.loads(file.read_text()))
            except (OSError, ValueError, TypeError):
                with suppress(OSError):
                    file.unlink()  # torn by a crash
                continue
            if record.server == self._server:
                yield record

    def _file(self, run_id: Any) -> Path:
        return self._folder / f"{UUID(str(run_id))}.json"


def mark_crashed_runs(
    client: Any, started: RunProcesses, deployments: Iterable[UUID], *, own: bool
) -> list[str]:
    """Mark runs as Crashed whose process is gone, which also releases their concurrency slots in their deployments.

    Call this before the first run is started, when no later run can have taken such a slot.

    Args:
        client: A synchronous client.
        started: The records of earlier processes.
        deployments: The deployments that are served here.
        own: The server is started by `faceid serve`, so nothing else runs its deployments, and a run without a living
            process has crashed. On a server that others use too, only runs that this machine started are judged.

    Returns:
        The names of the runs that were marked.
    """
    records = {record.run_id: record.is_running() for record in started}
    marked = []
    for run in _unfinished(client, deployment_id={"any_": list(deployments)}):
        alive = records.get(str(run.id))
        if alive or (alive is None and not own):
            continue
        for part in [*_unfinished(client, parent_flow_run_id={"any_": [run.id]}), run]:
            _mark(client, part)
        marked.append(run.name)
    for run_id, alive in records.items():
        if alive is False or (own and not alive):
            started.forget(run_id)
    return marked


def _unfinished(client: Any, **filters: Any) -> list[Any]:
    states = {"type": {"any_": [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]}}
    wanted, found = FlowRunFilter(state=states, **filters), []
    while page := client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE, offset=len(found)):
        found += page
    return found


def _mark(client: Any, run: Any) -> None:
    state = Cancelled if run.state.is_cancelling() else Crashed
    client.set_flow_run_state(run.id, state(message=MESSAGE), force=True)
