"""What a published run is compared with, and whether it becomes the current run of its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from faceid_core.errors import StoreError
from faceid_core.outcomes import EXIT_COMPLETE, Outcome, tally
from faceid_core.publish.earlier_runs import Change, EarlierRuns, changed_people
from faceid_core.publish.gate import RunComparison, compare_runs
from faceid_core.report.comparison_page import comparison_page
from faceid_core.run.records import INDEX, replace_object
from faceid_core.run.state import Run
from faceid_core.store.layout import run_object
from faceid_core.tables import Tables, reading_errors
from faceid_core.tables.promoted import promote

COMPARISON = "comparison.html"
_ATTEMPTS = 5


@dataclass(frozen=True)
class Verdict:
    """A run beside earlier ones.

    Attributes:
        against_last: With the last complete run of the same name; None if there is none.
        changes: What changed for people since that run.
        against_current: With the run that was current before; None if there was none, or if it is the last complete one.
        sentence: Which run is current now, and why; empty if this run could not become it.
        page: Name of the comparison's page in the store; empty if there is none.
    """

    against_last: RunComparison | None = None
    changes: tuple[Change, ...] = ()
    against_current: RunComparison | None = None
    sentence: str = ""
    page: str = ""


def judge(run: Run, exit_status: int, earlier: EarlierRuns) -> Verdict:
    """Compare a published run with the last complete one of its name, promote it if it may be, and write the page.

    What fails here is told and ends no run: its results are published.

    Args:
        run: Published, its outcome reports closed.
        exit_status: Its own.
        earlier: The runs before it.
    """
    tables = Tables(run.store)
    against_last, changes = _beside_last(run, tables, earlier.last_run_id)
    against_current, sentence = _decide(run, tables, exit_status, earlier, against_last)
    page = ""
    if against_last is not None:
        comparisons = [each for each in (against_last, against_current) if each is not None]
        page = _write_page(run, comparisons, changes, sentence)
    return Verdict(against_last, changes, against_current, sentence, page)


def _beside_last(run: Run, tables: Tables, last: str | None) -> tuple[RunComparison | None, tuple[Change, ...]]:
    """The comparison with the last complete run, if people are in both, and what changed with people."""
    if last is None:
        return None, ()
    try:
        found = compare_runs(tables, last, run.run_id, run.config.gate)
        if not found.people:
            return None, ()
        return found, tuple(changed_people(tables, found, is_subset=bool(run.config.run.only)))
    except reading_errors() as error:
        run.reporter.note(f"not compared with {last}: {error}")
        return None, ()


def _decide(
    run: Run, tables: Tables, exit_status: int, earlier: EarlierRuns, against_last: RunComparison | None
) -> tuple[RunComparison | None, str]:
    """Promote the run if it may be; the comparison with the current run if that is another, and what is current now."""
    name = run.config.name
    try:
        if why_not := _may_not(run, exit_status):
            current = tables.promoted().get(name)
            return None, f"current stays {current}: {why_not}" if current not in (None, run.run_id) else ""
        if run.config.gate.promote == "never":
            return None, ""
        return _promote(run, tables, earlier, against_last)
    except reading_errors() as error:
        return None, _after_trouble(run, tables, error)


def _after_trouble(run: Run, tables: Tables, error: Exception) -> str:
    """What is known of a promotion that broke off: its write may have arrived although the answer did not."""
    try:
        is_current = tables.promoted().get(run.config.name) == run.run_id
    except StoreError:
        return f"which run is current is not known: {error}"
    return f"current: {run.run_id}" if is_current else f"not promoted: {error}"


def _write_page(run: Run, comparisons: Sequence[RunComparison], changes: Sequence[Change], sentence: str) -> str:
    """Write the page of the comparisons, the last run's first; its name, or nothing if the store refuses it."""
    page = comparison_page(
        run_id=run.run_id,
        comparisons=[asdict(each) | {"fails": each.fails} for each in comparisons],
        changes=[asdict(each) for each in changes],
        sentence=sentence,
        least_people=run.config.gate.people,
        index_url=INDEX,
    )
    name = run_object(run.run_id, COMPARISON)
    try:
        replace_object(run.store, name, page)
    except StoreError as error:
        run.reporter.note(
            f"{name} is not written: {error}; its figures: faceid compare {comparisons[0].first} {run.run_id}"
        )
        return ""
    return name


def _may_not(run: Run, exit_status: int) -> str:
    """Why a run can never be current, whatever its figures are; empty if it can."""
    if exit_status != EXIT_COMPLETE or tally(run.outcome_reports.values())["not_reached"]:
        return "this run is not complete"
    if not {Outcome.DONE, Outcome.CACHED} & {each.outcome for each in run.outcome_reports.values()}:
        return "this run has no result of any identity"
    if run.config.run.only or run.evaluation_only:
        return "this run is of chosen identities or of evaluation alone"
    return ""


def _promote(
    run: Run, tables: Tables, earlier: EarlierRuns, against_last: RunComparison | None
) -> tuple[RunComparison | None, str]:
    """Promote a run unless it fails against the current one, or started before it; the comparison with that one."""
    name, gate = run.config.name, run.config.gate
    started = earlier.started
    for _ in range(_ATTEMPTS):
        current = tables.promoted().get(name)
        if current == run.run_id:
            return None, f"current: {run.run_id}"
        if current is not None and current not in started:  # it was published since
            started = {row["run_id"]: row["started_at"] for row in tables.read("runs").to_pylist()}
        if current is not None and current in started and started[current] > run.started_at:
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
