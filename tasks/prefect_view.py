"""What Prefect shows of a run beside its stages: the flow run's name, its wait for the store, and artifacts."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.states import Running, State

from faceid_core.outcomes import tally
from faceid_core.publish.gate import Difference
from faceid_core.publish.pages import report_address
from faceid_core.publish.publish import Published
from faceid_core.run.records import run_title
from faceid_core.run.state import Run

TAG = "faceid"  # of every deployment and every run, by which the automations know ours
WAITING = "WaitingForStore"


def name_flow_run(run: Run) -> None:
    """Name the flow run after the run, now that its number of people is known, and give it the tag of deployments.

    By the tag the automations find it. A flow run within another, as a variant of a study is, gets none: the outer
    one tells.
    """
    own = flow_run.get_parent_flow_run_id() is None
    tags = sorted({*flow_run.get_tags(), TAG}) if own else None
    try:
        get_client(sync_client=True).update_flow_run(UUID(flow_run.get_id()), name=run_title(run), tags=tags)
    except Exception as error:  # the run does not need a name
        get_run_logger().warning("run %s keeps its first name: %s", run.run_id, error)


class StoreWait:
    """Shows which run the present flow run waits for; called with each line that says so."""

    def __init__(self) -> None:
        self._shown = False

    def __call__(self, text: str) -> None:
        """Log a line, and set a state of the flow run with that line for as long as it waits."""
        get_run_logger().warning("%s", text)
        self._shown = True
        _set_state(Running(name=WAITING, message=text))

    def over(self) -> None:
        """Set the state back to an ordinary Running, if it was changed."""
        if self._shown:
            self._shown = False
            _set_state(Running())


@contextmanager
def show_store_wait() -> Generator[StoreWait]:
    """Yield a callback for a wait for the store; after the block the flow run's state is as before."""
    wait = StoreWait()
    try:
        yield wait
    except Exception:
        wait.over()
        raise
    wait.over()  # not after an interruption, which has little time


def _set_state(state: State) -> None:
    try:
        get_client(sync_client=True).set_flow_run_state(UUID(flow_run.get_id()), state)
    except Exception as error:  # the log says the same
        get_run_logger().info("the run's state does not show its wait for the store: %s", error)


def create_artifacts(run: Run, published: Published) -> None:
    """Create tables and a link for the Prefect UI: keys and figures, no ids and no pixels.

    Raises:
        Exception: Prefect or the store's tables failed.
    """
    counts = ", ".join(
        f"{count} {name}" for name, count in tally(run.outcome_reports.values()).items() if count
    )
    create_link_artifact(
        link=report_address(run, published.index),
        link_text=f"Report of run {run.run_id}",
        key="report",
        description=f"Where the report lies: `{published.index}` in `{run.store.url}`. {counts}.",
    )
    create_table_artifact(table=_outcomes(run), key="outcomes", description=f"Outcomes of run {run.run_id}")
    if published.figures:
        create_table_artifact(
            table=[dict(row) for row in published.figures],
            key="figures",
            description=f"Figures of run {run.run_id}",
        )
    compared = published.verdict.against_last
    if compared is not None:
        create_table_artifact(
            table=[_difference(each) for each in compared.differences],
            key="against-last-run",
            description=f"Run {compared.second} minus {compared.first}, means over the {compared.people} people who have "
            "the same photo in both",
        )


def _difference(found: Difference) -> dict:
    has_mean = found.mean is not None
    return {
        "figure": found.figure,
        "people": found.people,
        "difference": f"{found.mean:+.3f}" if has_mean else "",
        "95 % interval": f"{found.low:+.3f} to {found.high:+.3f}" if has_mean else "",
        "threshold": f"{found.limit:+.3f}",
        "verdict": found.verdict,
    }


def _outcomes(run: Run) -> list[dict]:
    return [
        {
            "identity": outcome_report.identity_key,
            "outcome": str(outcome_report.outcome),
            "stage": outcome_report.stage or "",
            "reason": outcome_report.reason or "",
            "weak": "" if outcome_report.weak is None else "weak" if outcome_report.weak else "no",
            "message": outcome_report.sentence or "",
            "attempts": outcome_report.attempts,
            "seconds": round(outcome_report.seconds, 1),
        }
        for outcome_report in run.outcome_reports.values()
    ]
