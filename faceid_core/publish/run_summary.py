"""The summary at the end of a run: a row per identity, then floor and ceiling, then one line over all people."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from faceid_core.outcomes import MOST_NAMED, WEAK, Outcome, OutcomeReport, some_of
from faceid_core.publish.publish import Published
from faceid_core.run.admission import shared_photos
from faceid_core.run.state import Run

# Of `identity_summary`, in the order of the console's table.
FIGURES = ("identity_similarity", "concepts_obeyed", "leakage", "detection")


def identity_rows(run: Run, published: Published, name: Callable[[OutcomeReport], str]) -> list[dict]:
    """Rows for the console; the figures of an identity that was not finished are None.

    Args:
        run: A run whose outcome reports are closed.
        published: What it published.
        name: How an identity is named: by id on a screen, by key in a log.
    """
    by_key = {row["identity_key"]: row for row in published.summary if row["identity_key"]}
    rows = []
    for outcome_report in run.outcome_reports.values():
        figures = by_key.get(outcome_report.identity_key, {})
        outcome = str(outcome_report.outcome) + (
            f" ({outcome_report.reason})" if outcome_report.reason else ""
        )
        outcome += ", weak" if outcome_report.weak else ""
        rows.append(
            {
                "identity": name(outcome_report),
                "outcome": outcome,
                "seconds": outcome_report.seconds,
                **_chosen(figures),
            }
        )
    over = published.overall.get("over_people", {})
    for title, bound in (("class word (floor)", "floor"), ("named people (ceiling)", "ceiling")):
        chosen = {name: over.get(name, {}).get(bound) for name in FIGURES}
        if any(value is not None for value in chosen.values()):
            rows.append({"identity": title, "outcome": "", "seconds": None, **chosen})
    return rows


def summary_line(overall: Mapping) -> str:
    """The run's figures over people, in one line; what could not be measured is left out.

    Args:
        overall: Of `evaluate.summary.aggregate`, or empty.

    Returns:
        The line; empty if nothing was measured.
    """
    over = overall.get("over_people", {})
    normalized = over.get("identity_fraction", {}).get("mean")
    gain = over.get("identity_gain", {}).get("mean")
    leakage = over.get("leakage", {})
    relative_accuracy = overall.get("relative_to_class_word", {}).get("concepts_obeyed")
    parts = []
    if normalized is not None:
        parts.append(f"normalized identity {normalized:.0%} (class word 0%, named people 100%)")
    if gain is not None and overall["people_judged"]:
        parts.append(f"{overall['people_with_gain']} of {overall['people_judged']} surely above the class word")
    if relative_accuracy is not None:
        parts.append(f"concept accuracy {relative_accuracy:.0%} of the class word's")
    if leakage.get("mean") is not None:
        floor = leakage.get("floor")
        of_floor = "" if floor is None else f", {floor:.0%} with the class word"
        parts.append(f"leakage {leakage['mean']:.0%}{of_floor}")
    return "; ".join(parts)


def remarks(run: Run, name: Callable[[OutcomeReport], str]) -> list[str]:
    """Remarks on finished identities that are no failures: weak identities, and photos that several identities share.

    Args:
        run: A run whose outcome reports are closed.
        name: How an identity is named: by id in a terminal, by key everywhere else.
    """
    weak = [name(outcome_report) for outcome_report in run.outcome_reports.values() if outcome_report.weak]
    found = [f"weak: {some_of(weak)}: {WEAK}"] if weak else []
    shared = shared_photos(run.outcome_reports, run.subjects, name)
    return found + ([shared] if shared else [])


def end_message(run: Run, published: Published) -> str:
    """How a run ended, as one message: counts, identities without pictures and why, and the remarks."""
    without = [a for a in run.outcome_reports.values() if a.outcome not in (Outcome.DONE, Outcome.CACHED)]
    parts = [
        f"{each.identity_key} {each.outcome} in {each.stage}: {each.reason or 'see its message'}"
        for each in without[:MOST_NAMED]
    ]
    if len(without) > MOST_NAMED:
        parts.append(f"and {len(without) - MOST_NAMED} more, in the table of outcomes")
    parts += remarks(run, lambda outcome_report: outcome_report.identity_key)
    verdict = [published.verdict.sentence] if published.verdict.sentence else []
    return "; ".join([published.sentence, *verdict, *parts])


def _chosen(figures: Mapping) -> dict:
    return {name: figures.get(name) for name in FIGURES}
