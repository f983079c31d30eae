"""The Prefect tasks of a stage: one lookup for all identities, and chunks of its misses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.states import Cancelled, Completed, Failed, State
from prefect.tasks import exponential_backoff

from faceid_core.errors import DamagedInput, StoreError, StoreRefused
from faceid_core.log_lines import about
from faceid_core.nightly import RUNS
from faceid_core.run.execute import execute_stage
from faceid_core.run.lookup import lookup_stage
from faceid_core.stages.work import Done, Work, pipeline_stage

STOPPED = "Stopped"  # the name of the state of a chunk with works that were not reached
STORE_RETRIES = 3
# At once, each in a thread: as many as there may be workers. A hundred thousand people have 25,000 chunks to score.
MOST_CHUNKS = 1024
FIRST_DELAY_SECONDS = 5.0


def _is_store_failure(_task: Any, _run: Any, state: State) -> bool:
    """Whether the store failed, so that a retry may succeed; any other error would come again."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StoreError) and not isinstance(error, DamagedInput | StoreRefused)


# For tasks that only read and write the store, and whose second attempt gives the same result.
RETRIED: dict[str, Any] = {
    "retries": STORE_RETRIES,
    "retry_delay_seconds": exponential_backoff(FIRST_DELAY_SECONDS),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _is_store_failure,
}


@task(name="lookup", task_run_name="lookup-{stage}", persist_result=False, **RETRIED)
def lookup(run_id: str, stage: str) -> State:
    """Look a stage up for all identities; the state is `Cached` when nothing is left to compute."""
    context = RUNS[run_id]
    misses = context.misses[stage] = lookup_stage(context.run, stage)
    if misses:
        return Completed(name="Completed", message=f"{len(misses)} to compute", data=len(misses))
    return Completed(name="Cached", message="every result was there", data=0)


@task(name="chunk", task_run_name="{stage}-{first}-to-{last}", retries=0, persist_result=False)
def chunk(run_id: str, stage: str, first: int, last: int) -> State:
    """Run misses `first` to `last` of a stage; the state says how they ended, see `end_state`."""
    context = RUNS[run_id]
    works = context.misses[stage][first - 1 : last]
    dones = execute_stage(context.run, stage, works, context.executor())
    _log(dones)
    try:
        create_table_artifact(
            table=[_row(done) for done in dones],
            key=f"outcomes-{stage}",
            description=f"Outcomes of {stage} {first} to {last} in run {run_id}",
        )
    except (
        Exception
    ) as error:  # the work is done and in the outcome reports; only Prefect's copy of it is missing
        get_run_logger().warning("%s %d to %d: no artifact in Prefect: %s", stage, first, last, error)
    return end_state(stage, dones)


def end_state(stage: str, dones: Sequence[Done]) -> State:
    """How a chunk ended: `Stopped` if a work was not reached, Failed if every one failed, otherwise Completed.

    Args:
        stage: Of STAGES; results of other stages ran beside it and do not count.
        dones: The outcomes.
    """
    dones = [done for done in dones if pipeline_stage(done.work.call.stage) == stage]
    counts = Counter(done.status for done in dones)
    parts = [f"{counts['done']} of {len(dones)} done"]
    parts += [f"{count} {status.replace('_', ' ')}" for status, count in counts.items() if status != "done"]
    message, summary = ", ".join(parts), {"works": len(dones), "failed": counts["failed"]}
    if counts["not_reached"]:
        why = next(done.message for done in dones if done.status == "not_reached")
        return Cancelled(name=STOPPED, message=f"{message}: {why}", data=summary)
    if dones and counts["failed"] == len(dones):
        return Failed(
            message=f"all {len(dones)} works of this chunk failed: {dones[0].message}", data=summary
        )
    return Completed(message=message, data=summary)


def _log(dones: Sequence[Done]) -> None:
    """Log a line for each work, with identity key and stage; works that are done at level DEBUG."""
    logger = get_run_logger()
    for done in dones:
        stage, subject = done.work.call.stage, done.work.subject
        extra = about(stage, subject)
        if done.status == "done":
            values = stage, subject, done.seconds, done.attempts
            logger.debug("%s %s: done in %.1f s, attempt %d", *values, extra=extra)
        else:
            values = stage, subject, done.status, done.reason or "", done.message or ""
            logger.warning("%s %s: %s (%s): %s", *values, extra=extra)


def _row(done: Done) -> dict[str, Any]:
    return {
        "subject": done.work.subject,
        "stage": done.work.call.stage,
        "outcome": done.status,
        "reason": done.reason or "",
        "message": done.message or "",
        "seconds": round(done.seconds, 2),
        "attempts": done.attempts,
    }


def chunks(works: Sequence[Work], size: int, *, whole: int = 1) -> list[tuple[int, int]]:
    """Cut misses into (first, last), counted from 1, so that a thousand people make hundreds of task runs at most.

    Args:
        works: The misses of a stage.
        size: Works in one chunk.
        whole: Raise the size to a multiple of this, so that a pass padded to its slots is not cut by a chunk's end.
    """
    size = -(-size // whole) * whole
    return [(start + 1, min(start + size, len(works))) for start in range(0, len(works), size)]
