"""The course of a night, the same under every orchestrator: stages in order, then the account, then publication."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from faceid_core.errors import StoreError
from faceid_core.night.executor import Executor, InlineExecutor
from faceid_core.night.interrupted import close_accounts, publish_rows
from faceid_core.night.night import Night
from faceid_core.night.publish import Published, publish
from faceid_core.night.runs import write_status
from faceid_core.outcomes import exit_status
from faceid_core.stages import STAGES
from faceid_core.stages.models import WorkerSettings

log = logging.getLogger(__name__)


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
    and publishes them, and lets the interruption through.
    """
    published = None
    try:
        for stage in STAGES:
            run_stage(stage)
            _say(night, "running", stage=stage)
        night.finish()
        published = publish_run(night)
        status = exit_status(night.accounts.values(), max_failed_share=night.config.run.max_failed_share)
        _say(night, "complete", exit_status=status, index=published.index)
        return Finished(night.run_id, status, published)
    except BaseException as error:
        ended = f"{type(error).__name__}: {error}"
        close_accounts(night, ended)
        _say(night, "interrupted", error=ended)
        if published is None:
            publish_rows(night, error)
        raise
    finally:
        night.release()


def _say(night: Night, state: str, **more) -> None:
    """Record the run's status; a record that fails neither ends a night nor hides what ended it."""
    try:
        write_status(night, state, **more)
    except StoreError as error:
        log.warning("run %s: its status %r is not recorded: %s", night.run_id, state, error)


@contextmanager
def executor_on_demand(make: Callable[[], Executor]):
    """Yield a function that gives the run's one executor, made at the first call, closed at the end.

    Several threads may ask; whoever comes while it is being made waits for it.
    """
    made: list[Executor] = []
    making = Lock()

    def get() -> Executor:
        with making:
            if not made:
                made.append(make())
            return made[0]

    try:
        yield get
    finally:
        with making:
            for executor in made:
                executor.close()


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

        def run_stage(stage: str) -> None:
            works = night.lookup(stage)
            if works:
                night.execute(stage, works, get())

        return drive(night, run_stage)
