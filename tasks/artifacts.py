"""What a person sees of a run in Prefect: its name, outcomes, figures beside last run's, and where the report is."""

from __future__ import annotations

from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from faceid_core.nightly import Finished
from faceid_core.outcomes import tally
from faceid_core.publish.against_last import against_last
from faceid_core.publish.report_link import report_link
from faceid_core.run.records import run_title
from faceid_core.run.state import Run
from faceid_core.tables import Tables


def name_run(run: Run) -> None:
    """Name the flow run after the run, now that it is known how many people it has."""
    try:
        get_client(sync_client=True).update_flow_run(flow_run.get_id(), name=run_title(run))
    except Exception as error:  # a name is a courtesy
        get_run_logger().warning("run %s keeps its first name: %s", run.run_id, error)


def leave_artifacts(run: Run, finished: Finished) -> None:
    """Tables and a link for the Prefect UI: keys and figures, no ids and no pixels.

    Raises:
        Exception: whatever Prefect or the store's tables failed with.
    """
    counts = ", ".join(f"{count} {name}" for name, count in tally(run.accounts.values()).items() if count)
    index = finished.published.index
    create_link_artifact(
        link=report_link(run, index),
        link_text=f"Report of run {run.run_id}",
        key="report",
        description=f"Where the report lies: `{index}` in `{run.store.url}`. {counts}.",
    )
    create_table_artifact(table=_outcomes(run), key="outcomes", description=f"Outcomes of run {run.run_id}")
    figures = finished.published.figures
    if figures:
        create_table_artifact(table=figures, key="figures", description=f"Figures of run {run.run_id}")
    compared = against_last(Tables(run.store), run.run_id)
    if compared is not None:
        create_table_artifact(
            table=compared.rows,
            key="against-last-run",
            description=f"Run {compared.run_id} against {compared.last_run_id}, means over people; the difference "
            "is over those who are in both",
        )


def _outcomes(run: Run) -> list[dict]:
    return [
        {
            "identity": account.identity_key,
            "outcome": str(account.outcome),
            "stage": account.stage or "",
            "reason": account.reason or "",
            "weak": "" if account.weak is None else "weak" if account.weak else "no",
            "message": account.told or "",
            "attempts": account.attempts,
            "seconds": round(account.seconds, 1),
        }
        for account in run.accounts.values()
    ]
