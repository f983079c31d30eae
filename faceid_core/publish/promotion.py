"""What a published run is compared with, and whether it becomes the current run of its name."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass

from faceid_core.errors import ConfigurationError, StoreError
from faceid_core.outcomes import EXIT_COMPLETE, tally
from faceid_core.publish.comparison import Change, changed_people, last_complete
from faceid_core.publish.gate import RunComparison, compare_runs
from faceid_core.report.comparison_page import comparison_page
from faceid_core.run.records import INDEX, replace_object
from faceid_core.run.state import Run
from faceid_core.store.layout import run_object
from faceid_core.tables import Tables
from faceid_core.tables.promoted import promote

log = logging.getLogger(__name__)

COMPARISON = "comparison.html"
_ATTEMPTS = 5


@dataclass(frozen=True)
class Verdict:
    """A run beside earlier ones.

    Attributes:
        against_last: With the last complete run of the same name; None if there is none.
        changes: What is otherwise with people than in that run.
        against_current: With the run that was current before; None if there was none, or if it is the last complete one.
        sentence: Which run is current now, and why; empty if this run could not become it.
    """

    against_last: RunComparison | None = None
    changes: tuple[Change, ...] = ()
    against_current: RunComparison | None = None
    sentence: str = ""


def judge(run: Run, exit_status: int) -> Verdict:
    """Compare a published run with the last complete one of its name, write the page, and promote the run if it may be.

    What fails here is noted and ends no run: its results are published.

    Args:
        run: Published, its outcome reports closed.
        exit_status: Its own.
    """
    try:
        return _judge(run, exit_status)
    except (ConfigurationError, StoreError) as error:
        run.reporter.note(f"not compared with earlier runs, and not promoted: {error}")
        return Verdict()


def _judge(run: Run, exit_status: int) -> Verdict:
    tables, name = Tables(run.store), run.config.name
    rows = tables.read("runs").to_pylist()
    last = last_complete(rows, name, run.started_at)
    against_last = _compared(run, tables, None if last is None else last["run_id"])
    changes = tuple(changed_people(tables, against_last)) if against_last else ()
    against_current, sentence = None, ""
    if why_not := _may_not(run, exit_status):
        current = tables.promoted().get(name)
        sentence = f"current stays {current}: {why_not}" if current not in (None, run.run_id) else ""
    elif run.config.gate.promote != "never":
        against_current, sentence = _promote(run, tables, rows, against_last)
    verdict = Verdict(against_last, changes, against_current, sentence)
    if against_last is not None:
        page = comparison_page(
            run_id=run.run_id,
            comparisons=[
                asdict(each) | {"fails": each.fails} for each in (against_last, against_current) if each is not None
            ],
            changes=[asdict(each) for each in changes],
            sentence=sentence,
            least_people=run.config.gate.people,
            index_url=INDEX,
        )
        replace_object(run.store, run_object(run.run_id, COMPARISON), page)
    return verdict


def _may_not(run: Run, exit_status: int) -> str:
    """Why a run can never be current, whatever its figures are; empty if it can."""
    if exit_status != EXIT_COMPLETE or tally(run.outcome_reports.values())["not_reached"]:
        return "this run is not complete"
    if run.config.run.only or run.evaluation_only:
        return "this run is of chosen identities or of evaluation alone"
    return ""


def _promote(
    run: Run, tables: Tables, rows: list[dict], against_last: RunComparison | None
) -> tuple[RunComparison | None, str]:
    """Promote a run unless it fails against the current one, or started before it; the comparison with that one."""
    name, gate = run.config.name, run.config.gate
    started = {row["run_id"]: row["started_at"] for row in rows}
    for _ in range(_ATTEMPTS):
        current = tables.promoted().get(name)
        if current == run.run_id:
            return None, f"current: {run.run_id}"
        if current in started and started[current] > run.started_at:
            return None, f"current stays {current}: it started later"
        against = other = None  # the comparison with the current run; the same if that is not the last one
        if current is not None and current in started:
            is_last = against_last is not None and against_last.first == current
            against = against_last if is_last else compare_runs(tables, current, run.run_id, gate)
            other = None if is_last else against
        if against is not None and gate.promote == "passed" and against.fails:
            return other, f"current stays {current}: {against.why}"
        if promote(run.store, name, run.run_id, in_place_of=current):
            before = f", in place of {current}" if current else ""
            return other, f"current: {run.run_id}{before}"
    raise StoreError(f"other runs were promoted meanwhile; promote it with: faceid promote {run.run_id}")


def _compared(run: Run, tables: Tables, first: str | None) -> RunComparison | None:
    """None if there is no such run, or if no person is in both."""
    if first is None:
        return None
    found = compare_runs(tables, first, run.run_id, run.config.gate)
    return found if found.people else None
