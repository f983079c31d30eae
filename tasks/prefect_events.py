"""Events of a run for automations: counts and shares, no person's id or key."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import get_run_logger
from prefect.events import emit_event

from faceid_core.outcomes import Outcome, tally
from faceid_core.publish.publish import Published
from faceid_core.publish.usual import UsualShare, compare_with_usual
from faceid_core.run.records import run_title
from faceid_core.run.state import Run
from faceid_core.tables import Tables

COMPLETED, UNUSUAL, LATE = "faceid.run.completed", "faceid.run.unusual", "faceid.run.late"


class RunEvents:
    """Emits the events of one run, from within its flow; a failure is logged and ends no run.

    Args:
        run: The run.
    """

    def __init__(self, run: Run):
        self._run, self._is_late = run, False

    def stage_ended(self) -> None:
        """Emit `LATE` once `run.finish_by` has kept identities from being started."""
        run = self._run
        if self._is_late or run.cancelled.is_set() or not run.past_finish_by():
            return
        stopped = [each for each in run.outcome_reports.values() if each.outcome is Outcome.NOT_REACHED]
        if not stopped:
            return
        self._is_late = True
        finish_by = f"{run.config.run.finish_by:%H:%M}"
        sentence = (
            f"run {run.run_id}: finish_by, {finish_by}, passed before {len(stopped)} of {len(run.outcome_reports)} "
            "identities were learned; the next run goes on with them"
        )
        self._emit(LATE, sentence, finish_by=finish_by, not_reached=len(stopped))

    def completed(self, published: Published) -> None:
        """Emit `COMPLETED` with what the run comes to, and `UNUSUAL` if a share is beyond the limit."""
        run, reports = self._run, self._run.outcome_reports.values()
        shares = []
        try:
            # The share of one person, or of chosen ones, says nothing of the manifest.
            if len(reports) > 1 and not run.config.run.only:
                shares = compare_with_usual(Tables(run.store), run.run_id, run.config.run.unusual_share)
        except Exception as error:  # the run is published; the comparison may be missing
            get_run_logger().warning("run %s: not compared with the usual: %s", run.run_id, error)
        more = {
            "exit_status": published.exit_status,
            "outcomes": tally(reports),
            "weak": sum(bool(each.weak) for each in reports),
            "shares": [asdict(each) for each in shares],
        }
        self._emit(COMPLETED, published.sentence, **more)
        unusual = [each for each in shares if each.unusual]
        if unusual:
            sentence = f"run {run.run_id} has more people than usual who are " + ", ".join(map(_words, unusual))
            self._emit(UNUSUAL, sentence, **more)

    def _emit(self, event: str, sentence: str, **more: Any) -> None:
        run = self._run
        try:
            emit_event(
                event,
                resource={
                    "prefect.resource.id": f"faceid.run.{run.run_id}",
                    "prefect.resource.name": run_title(run),
                    "faceid.run.name": run.config.name,
                },
                payload={"run_id": run.run_id, "run_date": run.run_date.isoformat(), "sentence": sentence, **more},
            )
        except Exception as error:  # automations miss it; the run does not need it
            get_run_logger().warning("run %s: no event %s in Prefect: %s", run.run_id, event, error)


def _words(found: UsualShare) -> str:
    runs = "the run" if found.runs == 1 else f"{found.runs} runs"
    return f"{found.kind}: {found.share:.0%}, against {found.usual:.0%} in {runs} before"
