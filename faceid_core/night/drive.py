"""The course of a night, the same under every orchestrator: stages in order, then the account, then publication."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock

from faceid_core.errors import ConfigurationError, StoreError
from faceid_core.night.executor import Executor, InlineExecutor, close_within
from faceid_core.night.interrupted import account_at_the_end
from faceid_core.night.night import Night
from faceid_core.night.publish import Published, publish
from faceid_core.night.runs import write_status
from faceid_core.outcomes import exit_status
from faceid_core.stages import STAGES
from faceid_core.stages.models import WorkerSettings

log = logging.getLogger(__name__)

CLOSE_SECONDS = 20.0  # for workers to go; they write nothing by then
STOPPED_CLOSE_SECONDS = 4.0  # the same of a run that is stopped, which Prefect is still to be told


@dataclass(frozen=True)
class Finished:
    """How a night ended."""

    run_id: str
    exit_status: int
    published: Published


def drive(
    night: Night, run_stage: Callable[[str], None], publish_run: Callable[[Night], Published] = publish
) -> Finished:
    """Run all stages, close every account, publish, give the night's lease back.

    Interrupted (Ctrl-C, cancelled, our own bug), it still closes the accounts of whoever was not finished, records
    and publishes them (`leave_account`), and lets the interruption through. Once published, a run stays as it is.
    """
    with account_at_the_end(night):
        for stage in STAGES:
            run_stage(stage)
            _say(night, "running", stage=stage)
        night.finish()
        published = publish_run(night)
        status = exit_status(night.accounts.values(), max_failed_share=night.config.run.max_failed_share)
        with night.ending:
            if not night.ended:
                _say(night, "complete", exit_status=status, index=published.index)
            night.ended = True
        return Finished(night.run_id, status, published)


def _say(night: Night, state: str, **more) -> None:
    """Record the run's status; a record that fails ends no night."""
    try:
        write_status(night, state, **more)
    except StoreError as error:
        log.warning("run %s: its status %r is not recorded: %s", night.run_id, state, error)


@contextmanager
def executor_on_demand(make: Callable[[], Executor]):
    """Yield a function that gives the run's one executor, made at the first call, closed at the end.

    Several threads may ask; one that comes while it is being made waits for it. The end waits for neither making nor
    closing it longer than `CLOSE_SECONDS` (`STOPPED_CLOSE_SECONDS`): a cluster that is gone would hold it up.
    """
    made: list[Executor] = []
    refused: list[ConfigurationError] = []
    making, over = Lock(), Event()

    def get() -> Executor:
        with making:
            if over.is_set():
                raise RuntimeError("the run is over, and its workers with it")
            if refused:  # the answer would be the same, after the same wait
                raise refused[0]
            if not made:
                try:
                    made.append(make())
                except ConfigurationError as error:
                    refused.append(error)
                    raise
            return made[0]

    def close() -> None:
        with making:
            for executor in made:
                executor.close()

    seconds = STOPPED_CLOSE_SECONDS
    try:
        yield get
        seconds = CLOSE_SECONDS
    finally:
        over.set()
        close_within(seconds, close)


def worker_settings(night: Night) -> WorkerSettings:
    """What this night's workers need."""
    return WorkerSettings.from_config(
        night.config, night.plan.weights, threads=night.config.execution.threads()
    )


def drive_inline(night: Night) -> Finished:
    """The whole night in this process, without Prefect or Ray."""

    def make() -> Executor:
        return InlineExecutor(worker_settings(night), night.run_id, attempts=night.config.execution.attempts)

    with executor_on_demand(make) as get:
        return drive_here(night, get)


def drive_here(night: Night, get: Callable[[], Executor]) -> Finished:
    """The whole night without Prefect.

    Args:
        night: an open night.
        get: gives the run's executor.
    """

    def run_stage(stage: str) -> None:
        works = night.lookup(stage)
        if works:
            night.execute(stage, works, get())

    return drive(night, run_stage)
