"""A stage without Prefect: what a night does when the server is out of reach for longer than the client waits."""

from __future__ import annotations

import logging
from collections.abc import Callable

import httpx
from prefect.exceptions import ObjectNotFound

from faceid_core.night.executor import Executor
from faceid_core.night.night import Night
from tasks.stage_tasks import MISSES

log = logging.getLogger(__name__)

# The server cannot be reached, answers with an error, or came back without the run (another database).
OUT_OF_REACH = (httpx.HTTPError, ObjectNotFound)


def run_unseen(night: Night, stage: str, open_executor: Callable[[], Executor], error: Exception) -> None:
    """Run what is left of a stage; whatever its sub-flow finished is a hit by now.

    Args:
        night: The night.
        stage: One of STAGES.
        open_executor: Gives the run's executor.
        error: How Prefect failed.
    """
    log.warning("run %s: %s goes on unseen, Prefect is out of reach: %s", night.run_id, stage, error)
    MISSES.pop((night.run_id, stage), None)
    works = night.lookup(stage)
    if works:
        night.execute(stage, works, open_executor())
