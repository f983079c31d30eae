"""The runner of `faceid serve`: when it stops, it lets its runs write their outcome reports before it ends them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import httpx
from prefect.runner import Runner
from prefect.runner._process_manager import ProcessHandle
from prefect.runner._starter_engine import EngineCommandStarter

from faceid_core.errors import ServerAway
from flows.crashed_runs import RunProcesses
from flows.stopping import APART_SECONDS, STOPS

# A run that is asked to stop writes its outcome report and rows; one that is not done by then is killed.
STOP_SECONDS = 60.0
_REPORT_SECONDS = 20.0  # for the runner to report a killed run to Prefect
_START_SECONDS = 3.0  # for a run that is being started to get its process
_POLL_SECONDS = 0.1


class RunProcessGroup:
    """How a run's process is ended: SIGTERM goes to the process alone, SIGKILL to its process group.

    The process leads a group of its own, so that Ctrl-C in a terminal reaches `faceid serve` only. Ray's processes are
    in that group; they must survive SIGTERM, since the run closes them.
    """

    wait_after_graceful_kill = True

    def is_alive(self, pid: int) -> bool:
        """Whether the run's process exists."""
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
            return True
        return False

    def graceful_kill(self, pid: int) -> None:
        """Ask the run to stop."""
        os.kill(pid, signal.SIGTERM)

    def hard_kill(self, pid: int) -> None:
        """Kill the run and the processes that it started."""
        os.killpg(pid, signal.SIGKILL)

    def close(self) -> None:
        """Do nothing: no resource is held."""


class GracefulRunner(Runner):
    """Prefect's runner, which on a signal ends its runs gracefully before it ends, and records their processes.

    Args:
        started: The records of its runs' processes.
        print_line: Prints a line for the operator.
        server_lives: Whether a server that does not answer may come back.
    """

    def __init__(
        self,
        started: RunProcesses,
        print_line: Callable[[str], None],
        server_lives: Callable[[], bool] = lambda: True,
    ):
        # Schedules stay as they are for the next `faceid serve`.
        super().__init__(name="faceid", pause_on_shutdown=False)
        self._started, self._print_line, self._server_lives = started, print_line, server_lives
        self._signals, self._last_signal, self._stop = 0, -APART_SECONDS, asyncio.Event()

    async def serve(self) -> None:
        """Serve until SIGTERM, SIGINT or SIGHUP; a second signal kills the runs at once.

        Raises:
            ServerAway: the server has ended for good.
        """
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            now = time.monotonic()
            self._signals += now - self._last_signal >= APART_SECONDS
            self._last_signal = now
            self._stop.set()

        for each in STOPS:
            if signal.getsignal(each) is not signal.SIG_IGN:  # as under nohup
                loop.add_signal_handler(each, on_signal)
        serving, waiting = asyncio.create_task(self.start()), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                await self.end_runs()
        finally:
            waiting.cancel()
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving
        if not self._signals:
            raise ServerAway("the Prefect server has ended, and its runs with it; start both again")

    def handle_sigterm(self, *_: object) -> None:
        """Do nothing: `serve` has a handler of its own. Prefect's would end the process at once."""

    async def end_runs(self) -> None:
        """Start no more runs; ask those under way to stop, wait for them, kill what does not end."""
        if not self.started:
            return
        poller, manager = self._scheduled_run_poller, self._process_manager
        self.stopping = poller.stopping = True
        began, asked, killed = time.monotonic(), set(), set()
        while True:
            tracked = manager.flow_run_ids()
            passed = time.monotonic() - began
            for run_id in tracked - asked:
                self._print_line(
                    "ending a run; it writes its outcome report first (Ctrl-C again ends it at once)"
                )
                self._signal(run_id, ProcessHandle.graceful_kill)
                asked.add(run_id)
            if passed > STOP_SECONDS or self._signals > 1:
                for run_id in tracked - killed:
                    self._signal(run_id, ProcessHandle.hard_kill)
                    killed.add(run_id)
            # The poller's list holds a run until its end is reported to Prefect.
            under_way = (tracked | asked) & poller._submitting_flow_run_ids
            starting = poller._submitting_flow_run_ids and passed < _START_SECONDS
            if not (under_way or starting) or passed > STOP_SECONDS + _REPORT_SECONDS:
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _poll(self) -> None:
        """Look for runs that are due; Prefect's loop would give up after minutes without a server and kill the runs."""
        away = False
        while not self.stopping:
            try:
                await self._get_and_submit_flow_runs()
                away = False
            except httpx.HTTPError as error:
                if not self._server_lives():
                    self._stop.set()
                    return
                if not away:
                    self._print_line(
                        f"the Prefect server does not answer ({error or type(error).__name__}); waiting for it"
                    )
                away = True
            await asyncio.sleep(self.query_seconds)

    def _signal(self, run_id, how: Callable[[ProcessHandle], None]) -> None:
        handle = self._process_manager.get(run_id)
        if handle is not None:
            with suppress(ProcessLookupError):
                how(handle)

    async def __aenter__(self):
        await super().__aenter__()
        self._scheduled_run_poller._resolve_starter = self._starter
        self._scheduled_run_poller.run = self._poll
        manager = self._process_manager
        add, remove, kill = manager.add, manager.remove, manager.kill

        async def add_and_remember(flow_run_id: UUID, handle: ProcessHandle) -> None:
            handle.termination_scope = RunProcessGroup()
            if handle.pid is not None:
                self._started.remember(flow_run_id, handle.pid)
            await add(flow_run_id, handle)

        async def remove_and_forget(flow_run_id: UUID) -> None:
            handle = manager.get(flow_run_id)
            if handle is not None and handle.returncode == 0:  # it has reported its end itself
                self._started.forget(flow_run_id)
            await remove(flow_run_id)

        async def kill_patiently(
            flow_run_id: UUID, grace_seconds: float = STOP_SECONDS, *, force: bool = False
        ) -> None:
            # Cancelled from the UI: Prefect's half minute may be too short for a run's rows.
            await kill(flow_run_id, max(grace_seconds, STOP_SECONDS), force=force)

        manager.add, manager.remove, manager.kill = add_and_remember, remove_and_forget, kill_patiently
        return self

    def _starter(self, flow_run) -> EngineCommandStarter:
        return EngineCommandStarter(
            tmp_dir=self._tmp_dir,
            deployment_name=self._deployment_registry.get_deployment_name(flow_run.deployment_id),
            control_channel=self._control_channel,
            isolate_process_group=True,
        )
