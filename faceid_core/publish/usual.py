"""Whether a run has more rejected or weak people than the runs of its name before it, from the tables alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from faceid_core.publish.earlier_runs import is_complete
from faceid_core.tables import Tables

RUNS_BEFORE = 10  # complete runs that "usual" is taken from
# Runs of chosen people say nothing about a whole manifest.
_LEAST_PEOPLE = 0.5
# Kind -> the columns of `by_run` with the people of the kind, and with those who could be of it.
_KINDS = {"rejected": ("rejected", "identities"), "weak": ("weak", "people")}


@dataclass(frozen=True)
class UsualShare:
    """A run's share of rejected or weak people beside the usual one.

    Attributes:
        kind: `rejected` (of all identities) or `weak` (of those with figures).
        share: this run's, 0..1.
        usual: the median over the runs before, 0..1.
        runs: how many runs that is.
        unusual: whether the share is more than the limit above the usual one.
    """

    kind: str
    share: float
    usual: float
    runs: int
    unusual: bool


def compare_with_usual(tables: Tables, run_id: str, limit: float) -> list[UsualShare]:
    """Compare a published run with up to `RUNS_BEFORE` complete runs of its name before it.

    Args:
        tables: Of the run's store.
        run_id: The run.
        limit: Increase of a share above which it is unusual, 0..1.

    Returns:
        A share for each kind that this run and at least one before it have; runs with less than half as many
        identities do not count.

    Raises:
        StoreError: the tables cannot be read.
    """
    # Of `identity_summary` DuckDB reads the three columns that these two sums need, not the view's means.
    rows = tables.query(
        "SELECT run_id, name, started_at, identities, people, rejected, weak, exit_status, not_reached, subset "
        "FROM by_run"
    ).to_pylist()
    this_run = next((row for row in rows if row["run_id"] == run_id), None)
    if this_run is None:
        return []
    before = [
        row
        for row in rows
        if row["name"] == this_run["name"]
        and row["started_at"] < this_run["started_at"]
        and row["identities"] >= _LEAST_PEOPLE * this_run["identities"]
        and is_complete(row)
    ]
    before = sorted(before, key=lambda row: row["started_at"])[-RUNS_BEFORE:]
    return [found for kind in _KINDS if (found := _compare(kind, this_run, before, limit))]


def _compare(kind: str, this_run: Mapping, before: Sequence[Mapping], limit: float) -> UsualShare | None:
    share = _share(kind, this_run)
    earlier = [each for row in before if (each := _share(kind, row)) is not None]
    if share is None or not earlier:
        return None
    usual = median(earlier)
    return UsualShare(kind, share, usual, len(earlier), share - usual > limit)


def _share(kind: str, row: Mapping) -> float | None:
    count, of = (row[column] for column in _KINDS[kind])
    return count / of if of else None
