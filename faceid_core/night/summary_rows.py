"""The closing table of a run: a line per identity, then floor and ceiling."""

from __future__ import annotations

from faceid_core.night.night import Night
from faceid_core.night.publish import Published


def closing_rows(night: Night, published: Published) -> list[dict]:
    """Rows for the console, by identity id; figures are None for whoever was not finished."""
    by_key = {row["identity_key"]: row for row in published.summary if row["identity_key"]}
    rows = []
    for account in night.accounts.values():
        figures = by_key.get(account.identity_key, {})
        outcome = str(account.outcome) + (f" ({account.reason})" if account.reason else "")
        rows.append(
            {
                "identity": account.identity_id,
                "outcome": outcome,
                "seconds": account.seconds,
                **_three(figures),
            }
        )
    over = published.overall.get("over_people", {})
    for title, side in (("class word (floor)", "floor"), ("named people (ceiling)", "ceiling")):
        three = {name: over.get(name, {}).get(side) for name in _three({})}
        if any(value is not None for value in three.values()):
            rows.append({"identity": title, "outcome": "", "seconds": None, **three})
    return rows


def _three(figures: dict) -> dict:
    return {name: figures.get(name) for name in ("identity_similarity", "concepts_obeyed", "detection")}
