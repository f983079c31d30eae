"""The nightly flow: one sub-flow per stage, one lookup task each, chunks of misses, one Ray pool per run."""

# No postponed annotations here: Prefect reads the flow's from a copy of the function that has no module.

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed, Crashed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from faceid_core.config import NightlyConfig
from faceid_core.errors import AlreadyRun, ConfigurationError, MissingWeights, without_people
from faceid_core.log_lines import write_json_lines
from faceid_core.nightly import (
    RUNS,
    STOPPED_CLOSE_SECONDS,
    Finished,
    RunContext,
    close_interrupted,
    drive,
    drive_directly,
    inline_executor,
    run_context,
    worker_settings,
)
from faceid_core.outcomes import EXIT_COMPLETE
from faceid_core.publish.publish import Published, publish
from faceid_core.publish.run_summary import end_message
from faceid_core.run.execute import execute_stage
from faceid_core.run.executor import MOST_AT_ONCE, Executor, close_within
from faceid_core.run.lookup import lookup_stage, prefetch_lookup
from faceid_core.run.open import open_run
from faceid_core.run.reporter import Reporter
from faceid_core.run.state import Run
from faceid_core.stages import STAGES
from flows.form import FormConfig
from flows.local_network import bind_ray_to_loopback
from flows.prefect_health import (
    OUT_OF_REACH,
    note_out_of_reach,
    was_out_of_reach,
    why_out_of_reach,
)
from flows.stopping import watched
from tasks.prefect_events import RunEvents
from tasks.prefect_view import create_artifacts, name_flow_run, show_store_wait
from tasks.progress import ProgressReporter
from tasks.run_log import RunLogReporter
from tasks.stage_tasks import MOST_CHUNKS, RETRIED, STOPPED, chunk, chunks, lookup


def _stage_flow(stage: str):
    """The sub-flow of one stage; its parameters are names only, because Prefect stores them."""

    # Prefect types a task runner by its base class of futures, which its own runners narrow.
    @flow(  # ty: ignore[no-matching-overload]
        name=stage,
        flow_run_name=f"{stage}-{{run_id}}",
        validate_parameters=False,
        persist_result=False,
        task_runner=ThreadPoolTaskRunner(max_workers=MOST_CHUNKS),
    )
    def run_stage(run_id: str) -> State:
        context = RUNS[run_id]
        run = context.run
        lookup(run_id, stage)
        misses = context.misses[stage]
        if not misses:
            return Completed(name="Cached", message="every result was there")
        executor = context.executor()
        try:
            slots = (run.config.personalize.slots or MOST_AT_ONCE) if stage == "personalize" else 1
            cuts = chunks(misses, run.config.execution.chunk, whole=slots)
            futures = [chunk.submit(run_id, stage, first, last) for first, last in cuts]
            states = [_end_state(future) for future in futures]
            for (first, last), state in zip(cuts, states, strict=True):
                if not (state.is_completed() or state.name == STOPPED):
                    message = f"its task ended before it had an outcome ({state.name}); run again"
                    run.fail_unsettled(stage, misses[first - 1 : last], message)
        except OUT_OF_REACH:
            raise  # the stage goes on without Prefect, with the same workers
        except BaseException as error:
            # Interrupted: leaving the flow tells Prefect and waits for each chunk under way, so close the run first.
            close_interrupted(run, error)
            close_within(STOPPED_CLOSE_SECONDS, executor.close)
            raise
        finally:
            context.misses.pop(stage, None)
        stopped = sum(state.name == STOPPED for state in states)
        failed = sum(not state.is_completed() for state in states) - stopped
        if stopped:
            message = f"{stopped} of {len(states)} chunks were stopped before their end, and {failed} failed"
            # A cancelled sub-flow would raise here; the outcome reports say which identities were not reached.
            return Completed(name="Stopped", message=message)
        if failed:
            # The run goes on with the other identities; the outcome reports say which failed.
            return Completed(name="CompletedWithFailures", message=f"{failed} of {len(states)} chunks failed")
        return Completed(message=f"{len(misses)} computed")

    return run_stage


def _end_state(future: PrefectFuture) -> State:
    """Wait for a chunk; one that could not report its end to Prefect counts as crashed."""
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
    return publish(RUNS[run_id].run)


@flow(name="nightly", flow_run_name="{config.name}", persist_result=False)
def nightly(config: FormConfig) -> State:
    """Personalize the identities of the manifest: detect, parse, mask, personalize, generate, score, publish."""
    return open_and_run(config)


@flow(name="nightly", flow_run_name="{config.name}", validate_parameters=False, persist_result=False)
def nightly_opened(run_id: str, config: NightlyConfig) -> State:
    """`nightly` of a run that `run_with_prefect` has opened; `config` is there for Prefect to show."""
    context = RUNS[run_id]
    try:
        return _run_in_flow(context)
    except BaseException as error:
        context.error = error
        raise


def open_and_run(config: NightlyConfig, **opening: Any) -> State:
    """The body of a deployed flow: open the run, run it, and return a state that says how it ended.

    Args:
        config: The parsed configuration.
        opening: `identities_of` and `evaluation_only` of `open_run`, for runs that differ from a nightly one in these.
    """
    try:
        run = _open(config, **opening)
    except AlreadyRun as complete:
        return Completed(name="Cached", message=str(complete))
    except (ConfigurationError, MissingWeights) as error:
        return Failed(message=without_people(error))
    with watched(), _context_with_prefetch(run) as context:
        return _run_in_flow(context)


def run_with_prefect(config: NightlyConfig, reporter: Reporter) -> tuple[Run, Finished]:
    """Run the nightly flow in this process with a reporter of the caller's; used by `faceid run` and studies.

    The run is opened before the flow, so that what refuses it is raised at once and stays out of Prefect. Where
    Prefect is out of reach, or cannot start the flow, the run runs without it.

    Raises:
        ConfigurationError: what PREFECT_API_URL names is no Prefect server, or it refuses us; nothing was opened.
        Exception: what refused the run, or ended the flow before it could publish.
    """
    # Within a flow, as a variant of a study is, Prefect has been reached already.
    out_of_reach = "" if flow_run.get_id() else why_out_of_reach()
    run = open_run(config, reporter)
    with _context_with_prefetch(run) as context:
        if out_of_reach:
            return run, _run_without_prefect(context, out_of_reach)
        try:
            # Prefect's overload has a keyword between the flow's own arguments, which ty does not match.
            state = nightly_opened(run.run_id, config, return_state=True)  # ty: ignore[no-matching-overload]
        except Exception as error:  # Prefect's: what the flow itself raises is in its state
            if context.error is not None:
                raise context.error from error
            if context.finished is None:
                return run, _run_without_prefect(context, f"{type(error).__name__}: {error}")
            note_out_of_reach(run, "the flow's end", error)
    if context.finished is None:
        state.result()  # raises what ended the flow
    assert context.finished is not None, "a flow that did not raise has finished the run"
    return run, context.finished


def _run_without_prefect(context: RunContext, why: str) -> Finished:
    """Run a run that Prefect does not know of, which costs its view in the UI only."""
    context.run.reporter.note(
        f"Prefect is out of reach, so this run is not in its UI: {why}. It goes on without; "
        f"`faceid status` tells how far it is"
    )
    note_out_of_reach(context.run, "the whole run", why)
    return drive_directly(context)


def _open(config: NightlyConfig, **opening: Any) -> Run:
    """Open the run of a deployed flow run, whose retries share one run id."""
    # The end of Prefect's time-ordered ids is random; their beginning is shared by a whole batch of scheduled runs.
    suffix = str(flow_run.get_id() or "").replace("-", "")[-8:] or None
    if config.log.format == "json":
        write_json_lines()
    reporter = RunLogReporter(get_run_logger())
    scheduled = flow_run.get_scheduled_start_time()
    with show_store_wait() as waiting:
        return open_run(
            config, reporter, run_suffix=suffix, scheduled=scheduled, report_wait=waiting, **opening
        )


@contextmanager
def _context_with_prefetch(run: Run) -> Generator[RunContext]:
    """The run's context; looks the first stage up in the background, and starts the executor if it has work.

    Prefect's server and Ray take seconds each to start, so the second does not wait for the first. A flow that Prefect
    could not start, or that was stopped outside our own code, is closed here.
    """
    with run_context(run, lambda: _make_executor(run)) as context:
        if run.config.execution.executor != "inline":
            prefetch_lookup(run, STAGES[0], context.executor)
        yield context


def _run_in_flow(context: RunContext) -> State:
    """Run the stages' sub-flows, publish, create the artifacts; the state says how the run ended."""
    run, log = context.run, get_run_logger()
    log.info("run %s: %d identities", run.run_id, len(run.outcome_reports))
    name_flow_run(run)
    events = RunEvents(run)

    def run_stage(stage: str) -> None:
        _run_stage(context, stage)
        if not was_out_of_reach():  # the client would keep events that it cannot deliver
            events.stage_ended()

    with ProgressReporter(run):
        finished = drive(context, run_stage, _publish)
    try:
        create_artifacts(run, finished.published)
    except Exception as error:  # the results are published; Prefect's copy of them may be missing
        log.warning("run %s: its artifacts are not all in Prefect: %s", run.run_id, error)
    if not was_out_of_reach():
        events.completed(finished.published)
    data = {"run_id": finished.run_id, "exit_status": finished.exit_status}
    ended = Completed if finished.exit_status == EXIT_COMPLETE else Failed
    return ended(message=end_message(run, finished.published), data=data)


def _run_stage(context: RunContext, stage: str) -> None:
    """A stage's sub-flow; where Prefect is out of reach the stage runs without it."""
    # Once Prefect was lost it is asked first: its client would try for a minute at every stage that is left.
    if was_out_of_reach() and (away := _still_away()):
        _run_stage_without_prefect(context, stage, away)
        return
    try:
        STAGE_FLOWS[stage](context.run.run_id)
    except OUT_OF_REACH as error:
        _run_stage_without_prefect(context, stage, error)


def _run_stage_without_prefect(context: RunContext, stage: str, error: object) -> None:
    """Run what is left of a stage; the lookup finds what its sub-flow finished.

    Args:
        context: The registered run.
        stage: One of STAGES.
        error: How Prefect failed.
    """
    note_out_of_reach(context.run, stage, error)
    context.misses.pop(stage, None)
    works = lookup_stage(context.run, stage)
    if works:
        execute_stage(context.run, stage, works, context.executor())


def _still_away() -> str:
    try:
        return why_out_of_reach(patience=0.0)
    except ConfigurationError as error:  # something else answers by now, which ends no run under way
        return str(error)


def _publish(run: Run) -> Published:
    try:
        return publish_task(run.run_id)
    except OUT_OF_REACH as error:
        note_out_of_reach(run, "publish", error)
        return publish(run)


def _make_executor(run: Run) -> Executor:
    """The executor that the configuration names."""
    execution = run.config.execution
    if execution.executor == "inline":
        return inline_executor(run)
    bind_ray_to_loopback(os.environ, execution.ray_address)
    from tasks.placement import nodes_that_may_come
    from tasks.pool import RayPool  # Ray is heavy, and reads the environment when it is imported

    return RayPool(
        replace(worker_settings(run), threads=execution.threads_per_worker),
        run.run_id,
        workers=execution.workers,
        address=execution.ray_address,
        attempts=execution.attempts,
        stall_seconds=execution.stall_seconds,
        gpus_per_worker=execution.gpus_per_worker,
        wait_seconds=execution.worker_wait_seconds,
        may_come=nodes_that_may_come(execution.autoscaler_nodes),
        niceness=execution.niceness,
        shared_store=execution.shared_store,
        metrics_port=run.config.metrics.ray_port,
    )
