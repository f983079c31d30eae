"""Ends the runs of a Prefect worker, each with its outcome reports: `python -m flows.end_runs PID`, before its stop.

Prefect's process worker kills its runs when it is stopped. This asks each to end, as `faceid serve` asks its own, and
waits; a run that the worker starts meanwhile is asked, too. A service manager limits how long.
"""

from __future__ import annotations

import sys
from contextlib import suppress

import psutil

_POLL_SECONDS = 0.5


def end_runs(worker: int) -> None:
    """Ask every child of a process to end, and wait until it has none.

    Args:
        worker: Its process id; nothing is done if it has ended.
    """
    asked: set[int] = set()
    while children := _children(worker):
        for child in children:
            if child.pid not in asked:
                asked.add(child.pid)
                with suppress(psutil.NoSuchProcess):
                    child.terminate()
        psutil.wait_procs(children, timeout=_POLL_SECONDS)


def _children(worker: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [each for each in psutil.Process(worker).children() if each.status() != psutil.STATUS_ZOMBIE]
    return []


if __name__ == "__main__":
    end_runs(int(sys.argv[1]))
