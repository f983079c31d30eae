"""A stage without Prefect: what a run does when the server is out of reach for longer than the client waits."""

from __future__ import annotations

import logging
from collections.abc import Callable

import httpx
from prefect.exceptions import ObjectNotFound

from faceid_core.run.execute import execute_stage
from faceid_core.run.executor import Executor
from faceid_core.run.lookup import lookup_stage
from faceid_core.run.state import Run
from tasks.stage_tasks import MISSES

log = logging.getLogger(__name__)

# The server cannot be reached, answers with an error, or came back without the run (another database).
OUT_OF_REACH = (httpx.HTTPError, ObjectNotFound)
_told: list[str] = []


def say_out_of_reach(run: Run, what: str, error: object) -> None:
    """Log that something went on without Prefect, and remember that it did."""
    _told.append(what)
    log.warning("run %s: %s goes on unseen, Prefect is out of reach: %s", run.run_id, what, error)


def was_out_of_reach() -> bool:
    """Whether Prefect was out of reach in this process: its client may hold events that nobody takes."""
    return bool(_told)


def run_unseen(run: Run, stage: str, open_executor: Callable[[], Executor], error: object) -> None:
    """Run what is left of a stage; whatever its sub-flow finished is a hit by now.

    Args:
        night: The run.
        stage: One of STAGES.
        open_executor: Gives the run's executor.
        error: How Prefect failed.
    """
    say_out_of_reach(run, stage, error)
    MISSES.pop((run.run_id, stage), None)
    works = lookup_stage(run, stage)
    if works:
        execute_stage(run, stage, works, open_executor())
