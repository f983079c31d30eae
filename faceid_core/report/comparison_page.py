"""The page of a run beside earlier runs: paired differences, the gate's verdict, and what changed with whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from faceid_core.report.figures import DASH, number, signed
from faceid_core.report.rendering import render

_NAMES = {
    "identity": "normalized identity",
    "concepts": "concept accuracy",
    "weak": "share of weak identities",
}
OTHER_GRID = (
    "The runs have other prompts or seeds, so identity and weak are not compared; concepts are, over the images of both."
)


def comparison_page(
    *,
    run_id: str,
    comparisons: Sequence[Mapping],
    changes: Sequence[Mapping],
    sentence: str,
    least_people: int,
    index_url: str,
) -> bytes:
    """One HTML file without pictures; people appear by their opaque keys only.

    Args:
        run_id: The run.
        comparisons: With the last complete run, then with the current one if that is another: `first`, `people`,
            `too_few`, `other_grid`, `fails`, and `differences` with `figure`, `people`, `mean`, `low`, `high`,
            `detectable`, `limit`, `fails`, `missing`.
        changes: Since the last complete run: `identity_key`, `kind`, `text`.
        sentence: Which run is current; may be empty.
        least_people: People below which nothing is judged.
        index_url: Address of the run's index, relative to this page.
    """
    return render(
        "comparison.html",
        run_id=run_id,
        comparisons=comparisons,
        rows=[[_row(each) for each in found["differences"]] for found in comparisons],
        changes=changes,
        sentence=sentence,
        least_people=least_people,
        index_url=index_url,
        other_grid=OTHER_GRID,
    )


def _row(difference: Mapping) -> dict:
    low, high, detectable = (difference[name] for name in ("low", "high", "detectable"))
    return {
        "figure": _NAMES[difference["figure"]],
        "people": difference["people"],
        "mean": signed(difference["mean"]),
        "interval": DASH if low is None else f"{signed(low)} to {signed(high)}",
        "detectable": number(detectable),
        "limit": signed(difference["limit"]),
        "fails": difference["fails"],
        "missing": difference["missing"],
        "judged": difference["mean"] is not None,
    }
