"""A run's figures beside those of the last run of the same name, from the tables alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from faceid_core.outcomes import Outcome
from faceid_core.tables import Tables

FIGURES = (
    "identity_similarity",
    "identity_gain",
    "normalized_identity",
    "concept_accuracy",
    "image_text",
    "leakage",
    "detection",
    "attention_outside",
)
_COUNTS = ("identities", *(str(outcome) for outcome in Outcome), "seconds")
_DECIMALS = 3


@dataclass(frozen=True)
class Comparison:
    """A run beside the last one of the same name.

    Args:
        run_id: The run.
        last_run_id: The one before it.
        rows: One for each figure, with the keys figure, this run, last run, difference and people in both. The
            difference of a figure is the mean over the people who are in both runs; that of a count or of seconds is
            the difference of the two values.
    """

    run_id: str
    last_run_id: str
    rows: list[dict]


def compare_with_last_run(tables: Tables, run_id: str) -> Comparison | None:
    """Compare a published run with the last one of the same name.

    Returns:
        The comparison; None if the run is the first of its name, or if no person has figures in both.

    Raises:
        StoreError: the tables cannot be read.
    """
    with tables.connect() as connection:
        runs = connection.sql("select * from runs").to_arrow_table().to_pylist()
        this_run = next((run for run in runs if run["run_id"] == run_id), None)
        if this_run is None:
            return None
        earlier = [
            run
            for run in runs
            if run["name"] == this_run["name"] and run["started_at"] < this_run["started_at"]
        ]
        if not earlier:
            return None
        last = max(earlier, key=lambda run: run["started_at"])
        columns = ", ".join(("run_id", "identity_key", *FIGURES))
        people = connection.sql(
            f"select {columns} from identity_summary where subject_kind = 'person' and run_id in (?, ?)",
            params=[run_id, last["run_id"]],
        ).to_arrow_table()
    by_run: dict[str, dict[str, dict]] = {run_id: {}, last["run_id"]: {}}
    for row in people.to_pylist():
        by_run[row["run_id"]][row["identity_key"]] = row
    now, before = by_run[run_id], by_run[last["run_id"]]
    if not set(now) & set(before):
        return None
    rows = [_count(name, this_run[name], last[name]) for name in _COUNTS]
    rows += [_figure(name, now, before) for name in FIGURES]
    return Comparison(run_id, last["run_id"], rows)


def _count(name: str, now: float, before: float) -> dict:
    return _row(name, now, before, now - before, "")


def _figure(name: str, now: Mapping[str, Mapping], before: Mapping[str, Mapping]) -> dict:
    def present(rows: Mapping[str, Mapping]) -> dict[str, float]:
        return {key: row[name] for key, row in rows.items() if row[name] is not None}

    this_run, last = present(now), present(before)
    both = [this_run[key] - last[key] for key in this_run if key in last]
    return _row(name, _mean(this_run.values()), _mean(last.values()), _mean(both), len(both))


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def _row(
    name: str, now: float | None, before: float | None, difference: float | None, people: int | str
) -> dict:
    shown = {"this run": now, "last run": before, "difference": difference}
    return {
        "figure": name.replace("_", " "),
        **{title: "" if value is None else round(value, _DECIMALS) for title, value in shown.items()},
        "people in both": people,
    }
