"""Two runs compared over people, images and prompts that both have, and whether the second one may follow the first.

A figure's difference is the mean over people of each person's own difference, so that what differs between people does
not count. Only people whose photo is the same in both runs are compared, and of these only images of the same prompt and
seed.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from faceid_core.config.sections import GateConfig
from faceid_core.errors import ConfigurationError
from faceid_core.evaluate.intervals import holm
from faceid_core.evaluate.power import LEVEL, detectable
from faceid_core.tables import Tables

FIGURES = ("identity", "concepts", "weak")
# Each person's normalized identity and concept accuracy in both runs over common prompts and seeds.
_PEOPLE = """
WITH both_ AS (
  SELECT a.identity_key, a.identity_id, a.weak AS weak_a, b.weak AS weak_b FROM people a JOIN people b
  USING (identity_key) WHERE a.run_id = $a AND b.run_id = $b AND a.generate_key IS NOT NULL
  AND b.generate_key IS NOT NULL AND coalesce(a.photo_digest = b.photo_digest, true)),
cells AS (
  SELECT s.run_id, s.identity_key, i.prompt, s.prompt_id, s.seed, s.metric, s.value FROM scores s
  JOIN images i USING (generate_key, prompt_id, seed) WHERE s.run_id IN ($a, $b) AND s.metric IN ('identity', 'concepts')
  AND s.null_reason IS DISTINCT FROM 'no_face_in_photo' AND identity_key IN (SELECT identity_key FROM both_)),
pairs AS (
  SELECT a.identity_key, a.prompt_id, a.metric, a.value AS a, b.value AS b FROM cells a JOIN cells b
  USING (identity_key, prompt, seed, metric) WHERE a.run_id = $a AND b.run_id = $b),
scale AS (SELECT run_id, identity_key, floor, ceiling FROM normalized_identities WHERE run_id IN ($a, $b))
SELECT both_.*, prompt_id, avg((coalesce(b, y.floor) - y.floor) / (y.ceiling - y.floor)
    - (coalesce(a, x.floor) - x.floor) / (x.ceiling - x.floor))
    FILTER (metric = 'identity' AND x.ceiling > x.floor AND y.ceiling > y.floor) AS identity,
  avg(b - a) FILTER (metric = 'concepts') AS concepts
FROM both_ LEFT JOIN pairs USING (identity_key)
LEFT JOIN scale x ON x.identity_key = both_.identity_key AND x.run_id = $a
LEFT JOIN scale y ON y.identity_key = both_.identity_key AND y.run_id = $b
GROUP BY ALL ORDER BY ALL
"""


@dataclass(frozen=True)
class Difference:
    """The second run's figure minus the first's, over people.

    Attributes:
        figure: `identity` (normalized identity), `concepts` (concept accuracy) or `weak` (share of weak identities).
        people: who have it in both runs.
        mean, low, high: with an interval that holds for all figures together at 95 % (Bonferroni); None for too few.
        detectable: the least true difference that is found with a probability of 80 % at this number of people; None
            for fewer than three.
        limit: the configured threshold.
        fails: beyond the threshold, with an interval that excludes 0.
    """

    figure: str
    people: int
    mean: float | None
    low: float | None
    high: float | None
    detectable: float | None
    limit: float
    fails: bool


@dataclass(frozen=True)
class Moved:
    """A person whose normalized identity differs between two runs.

    Attributes:
        identity_id, identity_key: the person.
        difference: the second run's mean over prompts minus the first's.
        p: of a one-sided t-test over prompts, corrected for the number of people by Holm's method.
    """

    identity_id: str
    identity_key: str
    difference: float
    p: float


@dataclass(frozen=True)
class RunComparison:
    """What a comparison of two runs comes to.

    Attributes:
        first, second: the runs.
        people: how many have the same photo and results in both.
        differences: one for each of `FIGURES`.
        worse, better: people who surely are, those with the smallest p first.
        too_few: fewer people than `gate.people`, so that nothing is judged.
    """

    first: str
    second: str
    people: int
    differences: tuple[Difference, ...]
    worse: tuple[Moved, ...]
    better: tuple[Moved, ...]
    too_few: bool

    @property
    def fails(self) -> bool:
        """Whether the second run must not follow the first."""
        return any(each.fails for each in self.differences)

    @property
    def why(self) -> str:
        """What fails, as one phrase; empty if nothing does."""
        return "; ".join(
            f"{each.figure} {each.mean:+.3f} ({each.low:+.3f} to {each.high:+.3f}) is beyond {each.limit:+.3f}"
            for each in self.differences
            if each.fails
        )


def compare_runs(tables: Tables, first: str, second: str, gate: GateConfig) -> RunComparison:
    """Compare two published runs.

    Args:
        tables: of the store.
        first, second: run ids.
        gate: the thresholds.

    Raises:
        StoreError: the tables cannot be read.
    """
    rows = tables.query(_PEOPLE, {"a": first, "b": second}).to_pandas()
    by_person = rows.groupby("identity_key", sort=True)
    figures = by_person[["identity", "concepts"]].mean()
    weak = by_person[["weak_a", "weak_b"]].first().astype("Float64")
    figures["weak"] = (weak.weak_b - weak.weak_a).astype(float)
    too_few = len(figures) < gate.people
    limits: Mapping[str, float] = {"identity": gate.identity, "concepts": gate.concepts, "weak": gate.weak}
    differences = tuple(
        _difference(name, figures[name].dropna().to_numpy(float), limits[name], judged=not too_few)
        for name in FIGURES
    )
    names = by_person.identity_id.first()
    worse, better = (_moved(rows, names, sign) for sign in (-1, 1))
    return RunComparison(first, second, len(figures), differences, worse, better, too_few)


def _difference(figure: str, values: np.ndarray, limit: float, *, judged: bool) -> Difference:
    from scipy.special import stdtrit  # as in evaluate.intervals

    count = len(values)
    if count < 2:
        return Difference(figure, count, None, None, None, None, limit, fails=False)
    mean, spread, level = float(values.mean()), float(values.std(ddof=1)), LEVEL / len(FIGURES)
    error, quantile = spread / np.sqrt(count), float(stdtrit(count - 1, 1 - level / 2))
    low, high = mean - quantile * error, mean + quantile * error
    beyond = mean < limit if limit < 0 else mean > limit
    fails = judged and beyond and not low <= 0 <= high
    found = detectable(spread, count, level=level)
    return Difference(figure, count, mean, low, high, found, limit, fails=bool(fails))


def _moved(rows: pd.DataFrame, names: pd.Series, sign: int) -> tuple[Moved, ...]:
    """People who are worse (sign -1) or better (1) by a t-test over their prompts, corrected by Holm's method."""
    from scipy.special import stdtr

    found = []
    for key, values in rows.dropna(subset=["identity"]).groupby("identity_key").identity:
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
        if error > 0:
            mean = float(values.mean())
            found.append(Moved(str(names[key]), str(key), mean, float(stdtr(len(values) - 1, -sign * mean / error))))
    corrected = holm([each.p for each in found])
    moved = [replace(each, p=p) for each, p in zip(found, corrected, strict=True) if p < LEVEL]
    return tuple(sorted(moved, key=lambda each: each.p))


def find_run(tables: Tables, wanted: str, *, beside: str | None = None) -> str:
    """The id of a published run.

    Args:
        tables: of the store.
        wanted: `latest`; `previous`, the last complete run before `beside` that has its name; `current`, the promoted run
            of that name; a run id; a date, whose last run is meant; or a name, whose last complete run is meant.
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
            found = [
                row
                for row in complete
                if row["name"] == other["name"] and row["started_at"] < other["started_at"]
            ]
        else:
            promoted = tables.promoted().get(other["name"])
            found = [row for row in runs if row["run_id"] == promoted]
    elif re.fullmatch(r"\d{4}-\d\d-\d\d", wanted):
        found = [row for row in runs if row["run_date"] == dt.date.fromisoformat(wanted)]
    else:
        found = [row for row in complete if row["name"] == wanted]
    if not found:
        known = ", ".join(row["run_id"] for row in runs[:5]) or "none"
        raise ConfigurationError(f"the tables show no run {wanted!r}; the latest runs are: {known}")
    return found[0]["run_id"]


def is_complete(run: Mapping) -> bool:
    """Whether a row of `runs` is of a run of the whole manifest that reached every identity and ended well."""
    return run["exit_status"] == 0 and not run["not_reached"] and not run["subset"]
