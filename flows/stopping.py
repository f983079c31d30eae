"""How a process ends on a signal: as on Ctrl-C, once the outcome reports of its runs are written, and within a bound.

The first signal interrupts. The second has no effect, since the outcome reports are being written; the third ends the
process at once. See docs/design/run.md, "Stopped by a signal".
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from faceid_core.outcomes import EXIT_INTERRUPTED

INTERRUPTED = "interrupted; what was finished is kept, the same command goes on from there"
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ARRIVE_SECONDS = 3.0  # for the interruption to reach our own code; Prefect's may be waiting for a server
LINGER_SECONDS = 10.0  # to close workers and tell Prefect, once the outcome report is written
LEAVE_SECONDS = 30.0  # for Prefect and Ray to end at the end of a process
_AT_ONCE = 3  # the number of the signal that ends the process at once
APART_SECONDS = 1.0  # a terminal or a service manager may send one stop as several signals
_FLOW_RUN = "PREFECT__FLOW_RUN_ID"  # in the environment of a process that Prefect started for one flow run

_active: list[_Watch] = []
_slow_to_leave: list[str] = []


@contextmanager
def stopped_like_ctrl_c():
    """Let SIGTERM and SIGHUP interrupt this process as Ctrl-C does; an ignored signal stays ignored, as under nohup."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        as_ctrl_c = signal.getsignal(signal.SIGINT)
        if callable(as_ctrl_c):
            as_ctrl_c(signal.SIGINT, frame)
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # otherwise it is ignored, or Prefect's
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def watched():
    """Bound the time that a signal takes to end the runs of this block, with their outcome reports written.

    A signal raises an exception in the main thread, which usually suffices. But the main thread may be deep in Prefect's
    client, which waits for a server that was stopped as well, or in one long computation. So a thread writes the
    outcome reports too, and ends the process if it has not ended `LINGER_SECONDS` later.
    """
    if _active or threading.current_thread() is not threading.main_thread():
        yield
        return
    with stopped_like_ctrl_c():
        watch = _Watch()
        _active.append(watch)
        try:
            yield
        finally:
            _active.remove(watch)
            watch.end()


class _Watch:
    """Reads signals from the descriptor to which Python writes their numbers at once, whatever the main thread does."""

    def __init__(self):
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._writes, False)
        self._before = signal.set_wakeup_fd(self._writes, warn_on_full_buffer=False)
        self._stopped, self._over = "", threading.Event()
        threading.Thread(target=self._listen, name="signals", daemon=True).start()

    def end(self) -> None:
        """Stop watching, but watch a stopped process of Prefect's to its end: Prefect's own code follows there."""
        if self._stopped and os.environ.get(_FLOW_RUN):
            return
        self._over.set()
        signal.set_wakeup_fd(self._before)
        os.write(self._writes, b"\0")  # no signal's number

    def _listen(self) -> None:
        count, last = 0, -APART_SECONDS
        while number := os.read(self._reads, 1)[0]:
            if number not in STOPS:
                continue
            # Ray's handler of SIGTERM sets an alarm that aborts the process after three seconds.
            signal.alarm(0)
            now = time.monotonic()
            count, last = count + (now - last >= APART_SECONDS), now
            if count == 1 and not self._stopped:
                self._stopped = signal.Signals(number).name
                threading.Thread(target=self._end_in_time, name="stopping", daemon=True).start()
            elif count >= _AT_ONCE:
                end_now(EXIT_INTERRUPTED)
            elif count > 1:
                _print_error("the outcome report of the run is being written; a third signal ends it at once")
        for descriptor in (self._reads, self._writes):
            os.close(descriptor)

    def _end_in_time(self) -> None:
        driving: Any = sys.modules.get("faceid_core.nightly")  # where it is not loaded there is no run
        contexts = list(driving.RUNS.values()) if driving else []
        open_runs = [context.run for context in contexts if context.finished is None]
        arrived = time.monotonic() + ARRIVE_SECONDS
        while any(not run.cancelled.is_set() for run in open_runs):
            if time.monotonic() > arrived or self._over.wait(0.05):
                break
        for run in open_runs:
            driving.close_interrupted(run, KeyboardInterrupt(self._stopped))
        if not self._over.wait(LINGER_SECONDS):
            _print_error(INTERRUPTED)
            end_now(EXIT_INTERRUPTED)


def _print_error(text: str) -> None:
    """Write to standard error unless that would block, since this thread must go on."""
    with suppress(OSError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{text}\n".encode())


def is_interruption(error: BaseException) -> bool:
    """Whether this is Ctrl-C, or the exception that a signal raises in a flow of Prefect's."""
    prefect = sys.modules.get("prefect.exceptions")
    return isinstance(error, KeyboardInterrupt) or bool(
        prefect and isinstance(error, prefect.TerminationSignal)
    )


def slow_to_leave(what: str) -> None:
    """Note that this process has started something that may delay its end; see `leave`.

    This cannot be derived from the loaded modules: tests call commands in a process that goes on.
    """
    _slow_to_leave.append(what)


def leave(code: int) -> None:
    """End the process with this exit status; bounds what Prefect and Ray do when a process ends."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if _would_wait_in_vain():
        end_now(code)
    if _slow_to_leave:
        seconds = LINGER_SECONDS if code == EXIT_INTERRUPTED else LEAVE_SECONDS
        timer = threading.Timer(seconds, end_now, (code,))
        timer.daemon = True
        timer.start()
    sys.exit(code)


def _would_wait_in_vain() -> bool:
    """Whether Prefect's server or the workers do not answer, so that their ends need not be waited for."""
    health, executors = sys.modules.get("flows.prefect_health"), sys.modules.get("faceid_core.run.executor")
    return bool((health and health.was_out_of_reach()) or (executors and executors.left_behind()))


def end_now(code: int) -> None:
    """End the process at once, with the Prefect server that it started; Ray's processes end by themselves."""
    servers = sys.modules.get("prefect.server.api.server")
    for server in list(servers.SubprocessASGIServer._instances.values()) if servers else ():
        with suppress(Exception):
            server.server_process.kill()
    os._exit(code)
