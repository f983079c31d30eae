"""A flow that runs until it is ended, and then takes a while to write its outcome report, as a run does."""

# No postponed annotations here: Prefect makes the form from them.

import signal
import time
from pathlib import Path

from prefect import flow

CLOSE_SECONDS = 2.0
RUNS_SECONDS = 300.0


@flow(name="stage", persist_result=False)
def stage(folder: str, stubborn: bool) -> None:
    """A stage that does not end by itself."""
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (Path(folder) / "began").touch()
    time.sleep(RUNS_SECONDS)


@flow(name="slow", persist_result=False)
def slow(folder: str, stubborn: bool = False) -> None:
    """Run one stage; interrupted, write an outcome report.

    Args:
        folder: Where `began` and `outcome report` are written.
        stubborn: Ignore the request to stop.
    """
    try:
        stage(folder, stubborn)
    finally:
        time.sleep(CLOSE_SECONDS)
        (Path(folder) / "outcome report").touch()
