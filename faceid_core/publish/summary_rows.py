"""The closing words of a run: a line per identity, then floor and ceiling, then what the run comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from faceid_core.outcomes import MOST_NAMED, WEAK, Account, Outcome, some_of
from faceid_core.publish.publish import Published
from faceid_core.run.admission import shared_photos
from faceid_core.run.state import Run

# Of `identity_summary`, in the order of the console's table.
FIGURES = ("identity_similarity", "concepts_obeyed", "leakage", "detection")


def closing_rows(run: Run, published: Published) -> list[dict]:
    """Rows for the console, by identity id; figures are None for whoever was not finished."""
    by_key = {row["identity_key"]: row for row in published.summary if row["identity_key"]}
    rows = []
    for account in run.accounts.values():
        figures = by_key.get(account.identity_key, {})
        outcome = str(account.outcome) + (f" ({account.reason})" if account.reason else "")
        outcome += ", weak" if account.weak else ""
        rows.append(
            {
                "identity": account.identity_id,
                "outcome": outcome,
                "seconds": account.seconds,
                **_chosen(figures),
            }
        )
    over = published.overall.get("over_people", {})
    for title, side in (("class word (floor)", "floor"), ("named people (ceiling)", "ceiling")):
        chosen = {name: over.get(name, {}).get(side) for name in FIGURES}
        if any(value is not None for value in chosen.values()):
            rows.append({"identity": title, "outcome": "", "seconds": None, **chosen})
    return rows


def acceptance_line(overall: Mapping) -> str:
    """What a run comes to, in one line; what could not be measured is left out.

    Args:
        overall: of `evaluate.summary.aggregate`, or empty.

    Returns:
        The line; empty if nothing was measured.
    """
    over = overall.get("over_people", {})
    way = over.get("identity_fraction", {}).get("mean")
    gain = over.get("identity_gain", {}).get("mean")
    leakage = over.get("leakage", {})
    obeyed = overall.get("relative_to_class_word", {}).get("concepts_obeyed")
    parts = []
    if way is not None:
        parts.append(f"on average {way:.0%} of the way from class word to named people")
    if gain is not None:
        parts.append(f"{overall['people_with_gain']} of {overall['people']} surely above the class word")
    if obeyed is not None:
        parts.append(f"concepts obeyed {obeyed:.0%} as often as with the class word")
    if leakage.get("mean") is not None:
        floor = leakage.get("floor")
        beside = "" if floor is None else f", {floor:.0%} with the class word"
        parts.append(f"leakage {leakage['mean']:.0%}{beside}")
    return "; ".join(parts)


def remarks(run: Run, name: Callable[[Account], str]) -> list[str]:
    """What a run says of finished people that is no failure: who is weak, and who has one and the same photo.

    Args:
        night: whose accounts are closed.
        name: how a person is called: by id in a terminal, by key everywhere else.
    """
    weak = [name(account) for account in run.accounts.values() if account.weak]
    told = [f"weak: {some_of(weak)}: {WEAK}"] if weak else []
    shared = shared_photos(run.accounts, run.subjects, name)
    return told + ([shared] if shared else [])


def ended(run: Run, published: Published) -> str:
    """How a run ended, for a reader who sees nothing else: counts, who has no pictures and why, whose are weak."""
    without = [a for a in run.accounts.values() if a.outcome not in (Outcome.DONE, Outcome.CACHED)]
    told = [
        f"{account.identity_key} {account.outcome} in {account.stage}: {account.reason or 'see its message'}"
        for account in without[:MOST_NAMED]
    ]
    if len(without) > MOST_NAMED:
        told.append(f"and {len(without) - MOST_NAMED} more, in the table of outcomes")
    told += remarks(run, lambda account: account.identity_key)
    return "; ".join([published.sentence, *told])


def _chosen(figures: dict) -> dict:
    return {name: figures.get(name) for name in FIGURES}
