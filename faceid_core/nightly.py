"""The course of a run, the same under every orchestrator: stages in order, then the account, then publication."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock

from faceid_core.errors import ConfigurationError, StoreError
from faceid_core.outcomes import exit_status
from faceid_core.publish.interrupted import account_at_the_end
from faceid_core.publish.publish import Published, publish
from faceid_core.run.execute import execute_stage
from faceid_core.run.executor import Executor, InlineExecutor, close_within
from faceid_core.run.lookup import lookup_stage
from faceid_core.run.records import write_status
from faceid_core.run.state import Run
from faceid_core.stages import STAGES
from faceid_core.stages.models import WorkerSettings

log = logging.getLogger(__name__)

CLOSE_SECONDS = 20.0  # for workers to go; they write nothing by then
STOPPED_CLOSE_SECONDS = 4.0  # the same of a run that is stopped, which Prefect is still to be told


@dataclass(frozen=True)
class Finished:
    """How a run ended."""

    run_id: str
    exit_status: int
    published: Published


def drive(
    run: Run, run_stage: Callable[[str], None], publish_run: Callable[[Run], Published] = publish
) -> Finished:
    """Run all stages, close every account, publish, give the run's lease back.

    Interrupted (Ctrl-C, cancelled, our own bug), it still closes the accounts of whoever was not finished, records
    and publishes them (`leave_account`), and lets the interruption through. Once published, a run stays as it is.
    """
    with account_at_the_end(run):
        for stage in STAGES:
            run_stage(stage)
            _say(run, "running", stage=stage)
        run.finish()
        published = publish_run(run)
        status = exit_status(run.accounts.values(), max_failed_share=run.config.run.max_failed_share)
        with run.ending:
            if not run.ended:
                _say(run, "complete", exit_status=status, index=published.index)
            run.ended = True
        return Finished(run.run_id, status, published)


def _say(run: Run, state: str, **more) -> None:
    """Record the run's status; a record that fails ends no run."""
    try:
        write_status(run, state, **more)
    except StoreError as error:
        log.warning("run %s: its status %r is not recorded: %s", run.run_id, state, error)


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


def worker_settings(run: Run) -> WorkerSettings:
    """What this run's workers need."""
    return WorkerSettings.from_config(run.config, run.plan.weights, threads=run.config.execution.threads())


def drive_inline(run: Run) -> Finished:
    """The whole run in this process, without Prefect or Ray."""

    def make() -> Executor:
        return InlineExecutor(worker_settings(run), run.run_id, attempts=run.config.execution.attempts)

    with executor_on_demand(make) as get:
        return drive_here(run, get)


def drive_here(run: Run, get: Callable[[], Executor]) -> Finished:
    """The whole run without Prefect.

    Args:
        night: an open run.
        get: gives the run's executor.
    """

    def run_stage(stage: str) -> None:
        works = lookup_stage(run, stage)
        if works:
            execute_stage(run, stage, works, get())

    return drive(run, run_stage)
