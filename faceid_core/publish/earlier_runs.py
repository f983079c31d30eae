"""The runs before a run, from the tables alone: which one it is compared with, and what changed for people since then."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from faceid_core.errors import ConfigurationError
from faceid_core.outcomes import Outcome
from faceid_core.publish.gate import RunComparison
from faceid_core.tables import Tables


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


def is_complete(run: Mapping) -> bool:
    """Whether a row of `runs` is of a run of the whole manifest that reached every identity and ended well."""
    return run["exit_status"] == 0 and not run["not_reached"] and not run["subset"]


def find_run(tables: Tables, wanted: str, *, beside: str | None = None) -> str:
    """The id of a published run.

    Args:
        tables: of the store.
        wanted: `latest`; `previous`, the last complete run before `beside` that has its name; `current`, the promoted run
            of that name; a run id; a date, whose last complete run is meant, of `beside`'s name if it has one, or else
            whose last run; or a name, whose last complete run is meant.
        beside: the other run of a comparison.

    Raises:
        ConfigurationError: there is none.
        StoreError: the tables cannot be read.
    """
    runs = sorted(
        tables.read("runs").to_pylist(), key=lambda row: (row["started_at"], row["run_id"]), reverse=True
    )
    complete = [row for row in runs if is_complete(row)]
    by_id = {row["run_id"]: row for row in runs}
    if wanted in by_id:
        return wanted
    if wanted == "latest":
        found = runs
    elif wanted in ("previous", "current"):
        other = by_id.get(beside or "") or (runs[0] if runs else None)
        if other is None:
            found = []
        elif wanted == "previous":
            last = last_complete(runs, other["name"], other["started_at"])
            found = [] if last is None else [last]
        else:
            promoted = tables.promoted().get(other["name"])
            found = [row for row in runs if row["run_id"] == promoted]
    elif (date := _date(wanted)) is not None:
        found = [row for row in runs if row["run_date"] == date]
        name = by_id[beside]["name"] if beside in by_id else None
        found.sort(key=lambda row: (row["name"] != name, not is_complete(row)))  # stable: the last one first
    else:
        found = [row for row in complete if row["name"] == wanted]
    if not found:
        known = ", ".join(row["run_id"] for row in runs[:5]) or "none"
        raise ConfigurationError(f"the tables show no run {wanted!r}; the latest runs are: {known}")
    return found[0]["run_id"]


def _date(text: str) -> dt.date | None:
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        with suppress(ValueError):  # there is no such day
            return dt.date.fromisoformat(text)
    return None


@dataclass(frozen=True)
class Change:
    """What changed for a person since the previous run.

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
