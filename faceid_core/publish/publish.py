"""Publication: the run's rows into the tables, a page for each person, an index without a pixel of a face."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from faceid_core.config import format_setting
from faceid_core.evaluate.summary import aggregate
from faceid_core.outcomes import exit_status, tally
from faceid_core.publish.fence import publish_fenced
from faceid_core.publish.pages import write_pages
from faceid_core.publish.rows import Found, run_tables
from faceid_core.publish.scores import collect
from faceid_core.run.people import ERASED
from faceid_core.run.state import Run
from faceid_core.store.folder import plain_address
from faceid_core.upkeep.erase import refuse_erased
from faceid_core.weights.describe import MINIATURE


@dataclass(frozen=True)
class Published:
    """Where a run's results are, and what they come to.

    `figures` are a few rows for the Prefect UI, by identity key; `summary` are the rows of identity_summary.
    """

    index: str
    sentence: str
    places: Mapping[str, str]
    figures: Sequence[Mapping]
    summary: Sequence[Mapping] = field(repr=False)
    overall: Mapping = field(repr=False)


def publish(run: Run) -> Published:
    """Write tables and pages of a run whose accounts are all closed; doing it again changes nothing."""
    published: list[tuple[str, list[dict], int]] = []

    def rows() -> dict[str, pa.Table]:
        refuse_erased(run)
        found, summary = collect(run)
        index = write_pages(run, found, summary)
        # Pages of many people take minutes: an erasure that began meanwhile need not be undone.
        refuse_erased(run)
        found, summary = _not_erased(run, found, summary)
        status = exit_status(run.accounts.values(), max_failed_share=run.config.run.max_failed_share)
        published[:] = [(index, summary, status)]
        return run_tables(run, found, summary, exit_status=status)

    publish_fenced(run, rows)
    index, summary, status = published[0]
    # Here, because a flow that is interrupted may never see this function return.
    run.published = {"exit_status": status, "index": index}
    overall = aggregate(summary) if summary else {}
    root = plain_address(run.store.url)
    return Published(
        index=index,
        sentence=_sentence(run),
        places={
            "report": f"{root}/{index}",
            "tables": f'faceid query {_store_option(run)} "select * from identity_summary"',
            "tokens": f"faceid tokens ID --out ID.safetensors {_store_option(run)}{_model_option(run)}",
        },
        figures=[_figure_row(row) for row in summary],
        summary=summary,
        overall=overall,
    )


def _not_erased(run: Run, found: Found, summary: list[dict]) -> tuple[Found, list[dict]]:
    """Scores and summary rows without those of people who are refused as erased."""
    erased = {key for key, account in run.accounts.items() if account.reason == ERASED}
    return (
        [(subject, scores) for subject, scores in found if subject.name not in erased],
        [row for row in summary if row["identity_key"] not in erased],
    )


def _store_option(run: Run) -> str:
    return f"--store {shlex.quote(run.config.store)}"


def _model_option(run: Run) -> str:
    """Tokens are looked up for one base model: name it unless it is the default."""
    source = run.config.base_model.source
    return "" if source == MINIATURE else f" --set {shlex.quote(format_setting('base_model.source', source))}"


def _figure_row(row: Mapping) -> dict:
    names = ("identity_similarity", "identity_gain", "identity_fraction", "concepts_obeyed", "leakage")
    who = row["identity_key"] or row["subject"]
    return {"subject": who, **{name: "" if row[name] is None else round(row[name], 3) for name in names}}


def _sentence(run: Run) -> str:
    counts = tally(run.accounts.values())
    told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
    computed = sum(run.computed.values())
    work = (
        f"{computed} stage results computed" if computed else "nothing was recomputed, every stage was cached"
    )
    return f"run {run.run_id}: {told or 'nobody'}; {work}"
