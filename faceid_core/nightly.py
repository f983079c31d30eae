"""A run from its first stage to its publication, the same under every orchestrator, and the end of an interrupted one."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Lock, Thread

from faceid_core.errors import ConfigurationError, StoreError
from faceid_core.log_lines import enter_stage, write_json_lines
from faceid_core.monitoring.export import monitored
from faceid_core.outcomes import Outcome
from faceid_core.publish.publish import Published, publish, publish_interrupted
from faceid_core.run.execute import execute_stage
from faceid_core.run.executor import Executor, InlineExecutor, close_within
from faceid_core.run.lookup import lookup_stage
from faceid_core.run.records import write_status
from faceid_core.run.state import Run
from faceid_core.run.tracing import span, start_tracing
from faceid_core.stages import STAGES
from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.work import Work

log = logging.getLogger(__name__)

CLOSE_SECONDS = 20.0  # for workers to end; they write nothing by then
STOPPED_CLOSE_SECONDS = 4.0  # the same after an interruption, when Prefect is still to be told
# Ray ends a process 60 s after its cluster is gone, so the outcome reports are waited for no longer than this.
REPORTS_SECONDS = 50.0


@dataclass(frozen=True)
class Finished:
    """How a run ended."""

    run_id: str
    exit_status: int
    published: Published


@dataclass
class RunContext:
    """One run that this process has under way; `RUNS` holds it under the run's id.

    Prefect stores the parameters of flows and tasks, so they receive a run id and numbers, and find the rest here.

    Args:
        run: The open run, with the reporter that listens to it.
        executor: Gives the run's one executor; the first call makes it.
        misses: By stage under way, what its lookup left to compute.
        finished: How the run ended; None until it is published and its status is written.
        error: What ended the run's flow before that.
    """

    run: Run
    executor: Callable[[], Executor]
    misses: dict[str, list[Work]] = field(default_factory=dict)
    finished: Finished | None = None
    error: BaseException | None = None


RUNS: dict[str, RunContext] = {}


@contextmanager
def run_context(run: Run, make_executor: Callable[[], Executor]) -> Generator[RunContext]:
    """Register an open run for a block.

    Afterwards its outcome reports are written, whatever ended the block, its lease is released, and its workers are
    closed, in this order.

    Args:
        run: The open run.
        make_executor: Makes its executor, when one is first asked for.
    """
    if run.config.log.format == "json":
        write_json_lines(run.run_id)
    start_tracing(run.reporter.note)
    with (
        span("run", run=run.run_id, run_name=run.config.name, identities=len(run.outcome_reports)) as whole,
        _closed_if_interrupted(run),
        monitored(run) as monitoring,
        executor_on_demand(monitoring.watching(make_executor)) as executor,
    ):
        context = RUNS[run.run_id] = RunContext(run, executor)
        try:
            with _closed_if_interrupted(run):
                yield context
        finally:
            del RUNS[run.run_id]
            monitoring.ended(context.finished.exit_status if context.finished else None)
            if context.finished:
                whole.set_attribute("faceid.exit_status", context.finished.exit_status)


@contextmanager
def _closed_if_interrupted(run: Run) -> Generator[None]:
    """Close the run if the block raises; release its lease in any case. Blocks may be nested."""
    try:
        yield
    except BaseException as error:
        close_interrupted(run, error)
        raise
    finally:
        run.release()


def drive(
    context: RunContext, run_stage: Callable[[str], None], publish_run: Callable[[Run], Published] = publish
) -> Finished:
    """Run all stages, close every outcome report, publish, release the run's lease.

    A run that is interrupted (Ctrl-C, a cancellation, our own bug) is closed by `close_interrupted` before the
    interruption leaves this function. A run that is published already stays as it is.

    Args:
        context: The registered run.
        run_stage: Looks one stage up and computes its misses.
        publish_run: Publishes a run whose outcome reports are closed.
    """
    run = context.run
    with _closed_if_interrupted(run):
        for stage in STAGES:
            enter_stage(stage)
            with span(f"stage {stage}", run=run.run_id, stage=stage):
                run_stage(stage)
            _record_progress(run, "running", stage=stage)
        run.finish()
        enter_stage("publish")
        with span("publish", run=run.run_id):
            published = publish_run(run)
        with run.ending:
            if not run.ended:
                _record_progress(run, "complete", exit_status=published.exit_status, index=published.index)
            run.ended = True
        log.info("run %s ended with status %d: %s", run.run_id, published.exit_status, published.sentence)
        context.finished = Finished(run.run_id, published.exit_status, published)
        return context.finished


def _record_progress(run: Run, state: str, **more: object) -> None:
    """Record the run's status; a store that refuses the record ends no run."""
    try:
        write_status(run, state, **more)
    except StoreError as error:
        log.warning("run %s: its status %r is not recorded: %s", run.run_id, state, error)


def close_interrupted(run: Run, error: BaseException) -> None:
    """Close every outcome report, record the run as interrupted and publish its rows, unless that is done already.

    The rows of a run that is published already stay; it is recorded as complete. This needs the store only, neither
    workers nor Prefect, and runs before they are closed. It runs in a thread of its own, which a second signal cannot
    interrupt, and is waited for up to `REPORTS_SECONDS`.

    Args:
        run: The interrupted run; it starts nothing more.
        error: What ended it.
    """
    # Ray's handler of SIGTERM sets an alarm that aborts the process after three seconds.
    signal.alarm(0)
    run.cancelled.set()
    # No daemon thread: a process that ends meanwhile waits for it.
    thread = Thread(target=_close_once, args=(run, error), name=f"outcome-reports-{run.run_id}")
    thread.start()
    thread.join(REPORTS_SECONDS)


def _close_once(run: Run, error: BaseException) -> None:
    with run.ending:
        if run.ended:
            return
        run.ended = True
        if run.published is not None:
            _record_end(run, "complete", **run.published)
            return
        log.info("run %s is interrupted by %s", run.run_id, type(error).__name__)
        ended = f"{type(error).__name__}: {error}"
        close_outcome_reports(run, ended)
        _record_end(run, "interrupted", error=ended)
        publish_interrupted(run, error)


def _record_end(run: Run, state: str, **more: object) -> None:
    """Record the run's last status; whatever fails here must not keep its rows from the tables."""
    try:
        write_status(run, state, **more)
    except Exception as error:
        log.warning("run %s: its status %r is not recorded: %s", run.run_id, state, error)


def close_outcome_reports(run: Run, ended: str) -> None:
    """Close every outcome report: an identity with all its results is finished, any other was not reached.

    Args:
        run: The interrupted run.
        ended: What ended it, in words.
    """
    run.freeze_outcomes()
    for outcome_report in run.outcome_reports.values():
        if outcome_report.alive and not run.missing_results(outcome_report):
            outcome_report.finish()
        outcome_report.close(Outcome.NOT_REACHED, stage="run", reason="interrupted", message=ended)


@contextmanager
def executor_on_demand(make: Callable[[], Executor]) -> Generator[Callable[[], Executor]]:
    """Yield a function that gives the run's one executor, made at the first call, closed at the end.

    Several threads may ask; one that comes while it is being made waits for it. The end waits for neither making nor
    closing it longer than `CLOSE_SECONDS` (`STOPPED_CLOSE_SECONDS` after an interruption): a cluster that is gone
    would hold it up.
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
    plan, threads = run.plan, run.config.execution.threads()
    return WorkerSettings.from_config(run.config, plan.weights, threads=threads, prior=plan.prior)


def inline_executor(run: Run) -> InlineExecutor:
    """An executor in this process."""
    return InlineExecutor(worker_settings(run), run.run_id, attempts=run.config.execution.attempts)


def drive_inline(run: Run) -> Finished:
    """The whole run in this process, without Prefect or Ray."""
    with run_context(run, lambda: inline_executor(run)) as context:
        return drive_directly(context)


def drive_directly(context: RunContext) -> Finished:
    """The whole run without Prefect, with the executor of its context."""

    def run_stage(stage: str) -> None:
        works = lookup_stage(context.run, stage)
        if works:
            execute_stage(context.run, stage, works, context.executor())

    return drive(context, run_stage)
