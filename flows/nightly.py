"""The nightly flow: one sub-flow per stage, one lookup task each, chunks of misses, one Ray pool per run."""

# No postponed annotations here: Prefect reads the flow's from a copy of the function that has no module.

import os
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed, Crashed, Failed, State

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, InputContractError, MissingWeights, PhotosMissing
from faceid_core.nightly import (
    STOPPED_CLOSE_SECONDS,
    Finished,
    drive,
    drive_here,
    executor_on_demand,
    worker_settings,
)
from faceid_core.outcomes import EXIT_COMPLETE
from faceid_core.publish.interrupted import account_at_the_end, leave_account
from faceid_core.publish.publish import Published, publish
from faceid_core.publish.summary_rows import ended
from faceid_core.run.executor import MOST_AT_ONCE, Executor, InlineExecutor, close_within
from faceid_core.run.lookup import prefetch_lookup
from faceid_core.run.open import open_run
from faceid_core.run.reporter import Reporter
from faceid_core.run.state import Run
from faceid_core.stages import STAGES
from flows.loopback import keep_ray_on_loopback
from flows.stopping import watched
from tasks.artifacts import leave_artifacts, name_run
from tasks.prefect_server import why_out_of_reach
from tasks.progress import ProgressReporter
from tasks.run_log import RunLogReporter
from tasks.stage_tasks import EXECUTORS, MISSES, RETRIED, RUNS, chunk, chunks, lookup
from tasks.store_wait import shown_while_waiting
from tasks.unseen import OUT_OF_REACH, run_unseen, say_out_of_reach, was_out_of_reach

# A run started from the command line listens with its console and wants the run back; the flow's own
# parameters and results are stored by Prefect, so neither can travel through them.
_opened: ContextVar[tuple[Run, Callable[[], Executor]] | None] = ContextVar("opened", default=None)
_outcome: ContextVar[dict | None] = ContextVar("outcome", default=None)
_OPENERS: dict[str, Callable[[], Executor]] = {}


def _stage_flow(stage: str):
    """The sub-flow of one stage; its parameters are names only, because Prefect stores them."""

    @flow(name=stage, flow_run_name=f"{stage}-{{run_id}}", validate_parameters=False, persist_result=False)
    def run_stage(run_id: str) -> State:
        run = RUNS[run_id]
        lookup(run_id, stage)
        misses = MISSES[run_id, stage]
        if not misses:
            return Completed(name="Cached", message="every result was there")
        EXECUTORS[run_id] = _OPENERS[run_id]()
        try:
            slots = (run.config.personalize.slots or MOST_AT_ONCE) if stage == "personalize" else 1
            cuts = chunks(misses, run.config.execution.chunk, whole=slots)
            futures = [chunk.submit(run_id, stage, first, last) for first, last in cuts]
            states = [_ended(future) for future in futures]
            for (first, last), state in zip(cuts, states, strict=True):
                if not state.is_completed():
                    message = f"its task ended before it had an outcome ({state.name}); run again"
                    run.fail_unsettled(stage, misses[first - 1 : last], message)
        except OUT_OF_REACH:
            raise  # the stage goes on unseen, with the same workers
        except BaseException as error:
            # Interrupted: leaving the flow asks Prefect and waits for every chunk under way, so the account comes first.
            leave_account(run, error)
            close_within(STOPPED_CLOSE_SECONDS, EXECUTORS[run_id].close)
            raise
        finally:
            MISSES.pop((run_id, stage), None)
        failed = sum(not state.is_completed() for state in states)
        if failed:
            # The run goes on with whoever is left; the account says who is not.
            return Completed(name="CompletedWithFailures", message=f"{failed} of {len(states)} chunks failed")
        return Completed(message=f"{len(misses)} computed")

    return run_stage


def _ended(future: PrefectFuture) -> State:
    """Wait for a chunk; one that could not even report its end to Prefect counts as crashed."""
    try:
        future.wait()
        return future.state
    except Exception as error:
        get_run_logger().warning("a chunk's task could not report its end: %s", error)
        return Crashed(message=type(error).__name__)


STAGE_FLOWS = {stage: _stage_flow(stage) for stage in STAGES}


@task(name="publish", task_run_name="publish-{run_id}", persist_result=False, **RETRIED)
def publish_task(run_id: str) -> Published:
    """Write tables, pages and the catalog."""
    return publish(RUNS[run_id])


@flow(name="nightly", flow_run_name="{config.name}", persist_result=False)
def nightly(config: NightlyConfig) -> State:
    """Personalize everybody in the manifest: detect, parse, mask, personalize, generate, score, publish."""
    # A served flow travels to its process by value with what it names; a function of this module goes by its name.
    return course_of_the_flow(config)


def course_of_the_flow(config: NightlyConfig, **opening: Any) -> State:
    """Open the run, unless `faceid run` did, run it, and say in one state how it ended.

    Args:
        config: The parsed configuration.
        opening: `identities_of` and `evaluation_only` of `open_run`, for runs that differ from a nightly one in these.
    """
    opened = _opened.get()
    try:
        run = opened[0] if opened else _open(config, **opening)
    except (ConfigurationError, MissingWeights) as error:
        return Failed(message=_without_people(error))
    if opened:
        try:
            finished = run_nightly(*opened)
        except BaseException as error:
            _outcome.get()["error"] = error
            raise
    else:
        with watched(), started_ahead(run) as get:
            finished = run_nightly(run, get)
    data = {"run_id": finished.run_id, "exit_status": finished.exit_status}
    message = ended(run, finished.published)
    if finished.exit_status == EXIT_COMPLETE:
        return Completed(message=message, data=data)
    return Failed(message=message, data=data)


def run_from_here(config: NightlyConfig, reporter: Reporter) -> tuple[Run, Finished]:
    """Run the flow in this process with a listener; used by `faceid run`.

    The run is opened before the flow, so that whatever refuses it is said at once and stays out of Prefect. Where
    Prefect is out of reach, or cannot start the flow, the run runs all the same, unseen.

    Raises:
        ConfigurationError: what PREFECT_API_URL names is no Prefect server, or refuses us; nothing was opened.
        Exception: whatever refused the run, or ended the flow before it could publish.
    """
    # Within a flow, as a variant of a study is, Prefect has been reached already.
    out_of_reach = "" if flow_run.get_id() else why_out_of_reach()
    run = open_run(config, reporter)
    with started_ahead(run) as get:
        if out_of_reach:
            return run, _run_without_prefect(run, get, reporter, out_of_reach)
        held: dict = {}
        opened, outcome = _opened.set((run, get)), _outcome.set(held)
        try:
            state = nightly(config, return_state=True)
        except Exception as error:  # Prefect's: what the flow itself raises is in its state
            if "error" in held:
                raise held["error"] from error
            if "finished" not in held:
                return run, _run_without_prefect(run, get, reporter, f"{type(error).__name__}: {error}")
            say_out_of_reach(run, "the flow's end", error)
        finally:
            _opened.reset(opened)
            _outcome.reset(outcome)
    if "finished" not in held:
        state.result()
    return run, held["finished"]


def _run_without_prefect(run: Run, get: Callable[[], Executor], reporter: Reporter, why: str) -> Finished:
    """Run a run of which Prefect does not know, which only costs its view."""
    reporter.note(
        f"Prefect is out of reach, so this run is not in its UI: {why}. It goes on without; "
        f"`faceid status` tells how far it is"
    )
    say_out_of_reach(run, "the whole run", why)
    return drive_here(run, get)


def _open(config: NightlyConfig, **opening: Any) -> Run:
    """Open the run of a deployed flow run, whose retries share one run id."""
    # The end of Prefect's time-ordered ids is random; their beginning is shared by a whole batch of scheduled runs.
    suffix = str(flow_run.get_id() or "").replace("-", "")[-8:] or None
    reporter = RunLogReporter(get_run_logger())
    scheduled = flow_run.get_scheduled_start_time()
    with shown_while_waiting() as waiting:
        return open_run(
            config, reporter, run_suffix=suffix, scheduled=scheduled, report_wait=waiting, **opening
        )


def _without_people(error: Exception) -> str:
    """What may stand in Prefect's database: a manifest's problems name people, so only their number is told."""
    if isinstance(error, InputContractError):
        return f"the manifest has {len(error.problems)} problem(s); `faceid run --dry-run` on the machine lists them"
    return error.without_people if isinstance(error, PhotosMissing) else str(error)


@contextmanager
def started_ahead(run: Run):
    """Yield a function that gives the run's executor; it starts meanwhile, if the first stage has work for it.

    Prefect's server and Ray take seconds each to start, so the second does not wait for the first. A flow that Prefect
    could not start, or that was stopped outside our own code, has its account written here, before the workers go.
    """
    with executor_on_demand(lambda: make_executor(run)) as get, account_at_the_end(run):
        if run.config.execution.executor != "inline":
            prefetch_lookup(run, STAGES[0], get)
        yield get


def run_nightly(run: Run, get: Callable[[], Executor]) -> Finished:
    """The body of the flow: run the stages' sub-flows, publish, leave artifacts.

    Args:
        night: an open run.
        get: gives the run's executor.
    """
    RUNS[run.run_id] = run
    get_run_logger().info("run %s: %d identities", run.run_id, len(run.accounts))
    name_run(run)
    try:
        _OPENERS[run.run_id] = get
        with ProgressReporter(run):
            finished = drive(run, lambda stage: _run_stage(run, stage), _publish)
        held = _outcome.get()
        if held is not None:
            held["finished"] = finished
        try:
            leave_artifacts(run, finished)
        except Exception as error:  # the results are published; Prefect's copy of them is a courtesy
            get_run_logger().warning("run %s: its artifacts are not all in Prefect: %s", run.run_id, error)
        return finished
    finally:
        for registry in (RUNS, EXECUTORS, _OPENERS):
            registry.pop(run.run_id, None)


def _run_stage(run: Run, stage: str) -> None:
    """A stage's sub-flow; where Prefect is out of reach the stage runs all the same, unseen."""
    # Once Prefect was lost it is asked first: its client would try for a minute at every stage that is left.
    if was_out_of_reach() and (away := _still_away()):
        run_unseen(run, stage, _OPENERS[run.run_id], away)
        return
    try:
        STAGE_FLOWS[stage](run.run_id)
    except OUT_OF_REACH as error:
        run_unseen(run, stage, _OPENERS[run.run_id], error)


def _still_away() -> str:
    try:
        return why_out_of_reach(patience=0.0)
    except ConfigurationError as error:  # something else answers by now, which ends no run under way
        return str(error)


def _publish(run: Run) -> Published:
    try:
        return publish_task(run.run_id)
    except OUT_OF_REACH as error:
        say_out_of_reach(run, "publish", error)
        return publish(run)


def make_executor(run: Run) -> Executor:
    """The executor that the configuration names."""
    execution = run.config.execution
    if execution.executor == "inline":
        return InlineExecutor(worker_settings(run), run.run_id, attempts=execution.attempts)
    keep_ray_on_loopback(os.environ, execution.ray_address)
    from tasks.pool import RayPool

    return RayPool(
        worker_settings(run),
        run.run_id,
        workers=execution.workers,
        address=execution.ray_address,
        attempts=execution.attempts,
        stall_seconds=execution.stall_seconds,
    )
