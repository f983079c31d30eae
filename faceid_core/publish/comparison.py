"""A run beside the last complete run of the same name, from the tables alone: its figures, and what became of people."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from faceid_core.outcomes import Outcome
from faceid_core.publish.gate import RunComparison, is_complete
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
    """A run beside the last complete one of the same name.

    Args:
        run_id: The run.
        last_run_id: The last complete one before it.
        rows: One for each figure, with the keys figure, this run, last run, difference and people in both. The
            difference of a figure is the mean over the people who are in both runs; that of a count or of seconds is
            the difference of the two values.
    """

    run_id: str
    last_run_id: str
    rows: list[dict]


def compare_with_last_run(tables: Tables, this_run: Mapping, last: Mapping) -> Comparison | None:
    """Compare the figures of a published run with those of the last complete one of the same name.

    Args:
        tables: Of the store.
        this_run: The run's row of `runs`.
        last: That of the last complete run.

    Returns:
        The comparison; None if no person has figures in both.

    Raises:
        StoreError: the tables cannot be read.
    """
    columns = ", ".join(("run_id", "identity_key", *FIGURES))
    people = tables.query(
        f"SELECT {columns} FROM identity_summary WHERE subject_kind = 'person' AND run_id IN (?, ?)",
        [this_run["run_id"], last["run_id"]],
    )
    by_run: dict[str, dict[str, dict]] = {this_run["run_id"]: {}, last["run_id"]: {}}
    for row in people.to_pylist():
        by_run[row["run_id"]][row["identity_key"]] = row
    now, before = by_run[this_run["run_id"]], by_run[last["run_id"]]
    if not set(now) & set(before):
        return None
    rows = [_count(name, this_run[name], last[name]) for name in _COUNTS]
    rows += [_figure(name, now, before) for name in FIGURES]
    return Comparison(this_run["run_id"], last["run_id"], rows)


@dataclass(frozen=True)
class EarlierRuns:
    """The runs that the tables show when a run begins to publish.

    Attributes:
        started: Run id -> when it started.
        last: The row of `runs` of the last complete run of the same name; None if there is none.
    """

    started: Mapping[str, dt.datetime]
    last: Mapping | None

    @property
    def last_run_id(self) -> str | None:
        """The id of the last complete run of the same name."""
        return None if self.last is None else self.last["run_id"]


def earlier_runs(tables: Tables, name: str, before: dt.datetime) -> EarlierRuns:
    """Look once for the runs that a run of a name, which started at a moment, is compared with.

    Raises:
        StoreError: the tables cannot be read.
    """
    rows = tables.read("runs").to_pylist()
    return EarlierRuns({row["run_id"]: row["started_at"] for row in rows}, last_complete(rows, name, before))


def last_complete(runs: Iterable[Mapping], name: str, before: dt.datetime) -> Mapping | None:
    """The last complete run of a name that started before a moment, of rows of `runs`."""
    earlier = [run for run in runs if run["name"] == name and run["started_at"] < before and is_complete(run)]
    return max(earlier, key=lambda run: (run["started_at"], run["run_id"]), default=None)


@dataclass(frozen=True)
class Change:
    """What is otherwise with a person than in the run before.

    Attributes:
        identity_key: The person.
        kind: `worse`, `better`, `outcome`, `weak`, `photo`, `new` or `gone`.
        text: In words.
    """

    identity_key: str
    kind: str
    text: str


KINDS = ("worse", "outcome", "weak", "better", "photo", "new", "gone")  # in the order of their importance


def changed_people(tables: Tables, compared: RunComparison, *, is_subset: bool = False) -> list[Change]:
    """What changed with people from the first run to the second, what matters most first.

    Args:
        tables: Of the store.
        compared: The comparison of the two runs.
        is_subset: The second run was of chosen identities, so that the others are not gone.

    Raises:
        StoreError: the tables cannot be read.
    """
    rows = tables.query(
        "SELECT run_id, identity_key, outcome, reason, weak, photo_digest FROM identity_outcomes WHERE run_id IN (?, ?)",
        [compared.first, compared.second],
    ).to_pylist()
    before, now = (
        {row["identity_key"]: row for row in rows if row["run_id"] == run_id}
        for run_id in (compared.first, compared.second)
    )
    found = [
        Change(each.identity_key, kind, f"normalized identity {each.difference:+.2f} (p = {each.p:.2g})")
        for kind, moved in (("worse", compared.worse), ("better", compared.better))
        for each in moved
    ]
    for key in now:
        found += [Change(key, "new", _outcome(now[key]))] if key not in before else _changes(before[key], now[key])
    if not is_subset:
        found += [Change(key, "gone", f"was {_outcome(before[key])}") for key in before if key not in now]
    return sorted(found, key=lambda change: KINDS.index(change.kind))


def _changes(before: Mapping, now: Mapping) -> Iterable[Change]:
    key, finished = now["identity_key"], (str(Outcome.DONE), str(Outcome.CACHED))
    if now["outcome"] != before["outcome"] and not (now["outcome"] in finished and before["outcome"] in finished):
        yield Change(key, "outcome", f"{_outcome(now)}, was {_outcome(before)}")
    if now["weak"] is not None and before["weak"] is not None and now["weak"] != before["weak"]:
        yield Change(key, "weak", "weak, was not" if now["weak"] else "no longer weak")
    if None not in (now["photo_digest"], before["photo_digest"]) and now["photo_digest"] != before["photo_digest"]:
        yield Change(key, "photo", "another photo")


def _outcome(row: Mapping) -> str:
    words = str(row["outcome"]).replace("_", " ")
    return f"{words} ({row['reason']})" if row["reason"] else words


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
