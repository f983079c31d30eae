"""Publication: a run's rows into the tables, a page for each person, and an index that shows no face."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from faceid_core.config import format_setting, store_options
from faceid_core.errors import FaceidError, StoreError
from faceid_core.evaluate.summary import aggregate
from faceid_core.outcomes import EXIT_BUG, EXIT_FAILURES, exit_status, tally
from faceid_core.publish.earlier_runs import EarlierRuns, earlier_runs
from faceid_core.publish.pages import write_index, write_pages
from faceid_core.publish.promotion import Verdict, judge
from faceid_core.publish.rows import Found, outcome_tables, result_tables
from faceid_core.publish.scores import collect_scores
from faceid_core.run.admission import ERASED
from faceid_core.run.state import Run
from faceid_core.store.folder import plain_address
from faceid_core.store.tombstone import reopen
from faceid_core.tables import Rows, Tables, portions, reading_errors
from faceid_core.upkeep.erase import close_erased
from faceid_core.upkeep.tables import erase_rows
from faceid_core.weights.describe import MINIATURE

log = logging.getLogger(__name__)


Made = TypeVar("Made")


@dataclass(frozen=True)
class Published:
    """Where a run's results are, and what they come to.

    Args:
        exit_status: 0, or 2 where more people failed or were not reached than the configuration allows.
        index: Name of the report's index in the store.
        sentence: The outcomes, counted.
        places: What a reader may want next -> where it is, or the command that gives it.
        figures: A few rows for the Prefect UI, by identity key.
        summary: The rows of `identity_summary`.
        overall: The figures over people, of `evaluate.summary.aggregate`.
        verdict: How the run compares with earlier ones, and which run is current.
    """

    exit_status: int
    index: str
    sentence: str
    places: Mapping[str, str]
    figures: Sequence[Mapping]
    summary: Sequence[Mapping] = field(repr=False)
    overall: Mapping = field(repr=False)
    verdict: Verdict = field(default_factory=Verdict, repr=False)


def publish(run: Run) -> Published:
    """Write tables and pages of a run whose outcome reports are all closed; doing it again changes nothing."""
    earlier = _earlier_runs(run)

    def rows() -> tuple[dict[str, Rows], tuple[str, Found, list[dict], int]]:
        close_erased(run)
        found, summary = collect_scores(run)
        index = write_pages(run, found, summary, earlier.last_run_id)
        # Pages of many people take minutes: leave people out here who were erased meanwhile.
        close_erased(run)
        found, summary = _not_erased(run, found, summary)
        status = exit_status(run.outcome_reports.values(), max_failed_share=run.config.run.max_failed_share)
        tables = {**outcome_tables(run, exit_status=status), **result_tables(run, found, summary)}
        return tables, (index, found, summary, status)

    index, found, summary, status = _publish_without_erased(run, rows)
    # Set here, because a flow that is interrupted may never see this function return.
    run.published = {"exit_status": status, "index": index}
    verdict = judge(run, status, earlier)
    try:
        write_index(run, found, summary, verdict)
    except StoreError as error:  # the index without what changed is there
        run.reporter.note(f"the index does not show what changed: {error}")
    overall = aggregate(summary) if summary else {}
    root = plain_address(run.store.url)
    return Published(
        exit_status=status,
        index=index,
        sentence=_sentence(run),
        places={
            "report": f"{root}/{index}",
            **({"compared": f"{root}/{verdict.page}"} if verdict.page else {}),
            "tables": f'faceid query {store_options(run.config)} "select * from latest"',
            "tokens": f"faceid tokens ID --out ID.safetensors {store_options(run.config)}{_model_option(run)}",
        },
        figures=[_figure_row(row) for row in summary],
        summary=summary,
        overall=overall,
        verdict=verdict,
    )


def _earlier_runs(run: Run) -> EarlierRuns:
    """The runs before this one; none where the tables cannot be read, which is told."""
    try:
        return earlier_runs(Tables(run.store), run.config.name, run.started_at)
    except reading_errors() as error:
        run.reporter.note(f"not compared with earlier runs: {error}")
        return EarlierRuns({}, None)


def publish_interrupted(run: Run, error: BaseException) -> None:
    """Write the rows of an interrupted run: its outcomes, and the figures of identities that were finished.

    Writes no page; the next run finds the results in the cache and writes them. What fails here is logged, because it
    must not hide what ended the run.

    Args:
        run: The run, with every outcome report closed.
        error: What ended it.
    """
    # Ctrl-C, a cancellation and the project's own errors leave people unreached; any other exception is our bug.
    ours = isinstance(error, Exception) and not isinstance(error, FaceidError)
    status = EXIT_BUG if ours else EXIT_FAILURES

    def rows() -> tuple[dict[str, Rows], None]:
        try:
            close_erased(run)
            found, summary = collect_scores(run)
            results = result_tables(run, found, summary)
            for made in results.values():
                for _ in portions(made):
                    pass  # what cannot be made must not keep the outcomes from the tables
            return {**outcome_tables(run, exit_status=status), **results}, None
        except Exception as broken:
            log.warning("run %s: its figures are not published: %s", run.run_id, broken)
            return outcome_tables(run, exit_status=status), None

    try:
        _publish_without_erased(run, rows)
    except Exception as broken:
        log.warning("run %s: its outcomes are not in the tables: %s", run.run_id, broken)


def _publish_without_erased(run: Run, rows: Callable[[], tuple[Mapping[str, Rows], Made]]) -> Made:
    """Write a run's rows; remove those of identities that were erased meanwhile, and write the rest again.

    The process may be stopped for any time between its look for tombstones and its write, so the look follows the
    write.

    Args:
        run: Whose rows these are.
        rows: Makes them from the outcome reports as they stand, without people who are refused as erased; and what else
            comes of that.

    Returns:
        What else came of the rows that stand.

    Raises:
        ContractError: a table breaks its contract.
        StoreError: the storage fails.
    """
    while True:
        tables, made = rows()
        Tables(run.store).publish(run.run_id, tables)
        late = close_erased(run)
        if not late:
            return made
        for key, stage_keys in late.items():
            # The receipt first, in case this process is killed; versions in a bucket are for the erasure to remove.
            reopen(run.store, key)
            erase_rows(run.store, key, stage_keys, unnamed_age=None, versions=False)


def _not_erased(run: Run, found: Found, summary: list[dict]) -> tuple[Found, list[dict]]:
    """Scores and summary rows without those of people who are refused as erased."""
    erased = {key for key, outcome_report in run.outcome_reports.items() if outcome_report.reason == ERASED}
    return (
        [(subject, scores) for subject, scores in found if subject.name not in erased],
        [row for row in summary if row["identity_key"] not in erased],
    )


def _model_option(run: Run) -> str:
    """Tokens are looked up for one base model: name it, and where its weights are, unless it is the default."""
    base = run.config.base_model
    if base.source == MINIATURE:
        return ""
    settings = {
        "weights": run.config.weights,
        "base_model.source": base.source,
        "base_model.weights": base.weights,
        "base_model.layout": base.layout,
    }
    return "".join(f" --set {shlex.quote(format_setting(key, value))}" for key, value in settings.items() if value)


def _figure_row(row: Mapping) -> dict:
    names = ("identity_similarity", "identity_gain", "identity_fraction", "concepts_obeyed", "leakage")
    who = row["identity_key"] or row["subject"]
    return {"subject": who, **{name: "" if row[name] is None else round(row[name], 3) for name in names}}


def _sentence(run: Run) -> str:
    counts = tally(run.outcome_reports.values())
    outcomes = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
    computed = sum(run.computed.values())
    work = (
        f"{computed} stage results computed" if computed else "nothing was recomputed, every stage was cached"
    )
    return f"run {run.run_id}: {outcomes or 'no identities'}; {work}"
