"""Two runs compared over people, images and prompts that both have, and whether the second one may follow the first.

A figure's difference is the mean over people of each person's own difference, so that what differs between people does
not count. Only people whose photo is the same in both runs are compared, and of these only images of the same prompt and
seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from faceid_core.config.execution import GateConfig
from faceid_core.evaluate.intervals import holm, t_quantile
from faceid_core.evaluate.power import LEVEL, detectable
from faceid_core.tables import Tables

FIGURES = ("identity", "concepts", "weak")
# A row for each person with results in both runs. `same` are those whose figures rest on the very same scores and
# ceiling in both, so that they cannot differ; most people of a night are.
_PEOPLE = """
WITH named AS (
  SELECT run_id, list(identity_similarity ORDER BY identity_similarity) AS ceiling FROM identity_summary
  WHERE subject_kind = 'named' AND run_id IN ($a, $b) GROUP BY ALL),
persons AS (
  SELECT s.run_id, s.identity_key, s.identity_id, s.weak, s.normalized_identity, s.concept_accuracy, o.photo_digest,
    ceiling, list_sort([each.stage_key FOR each IN o.stage_results
      IF each.stage IN ('score-identity', 'score-concepts', 'floor_score-identity')]) AS rests_on
  FROM identity_summary s JOIN identity_outcomes o USING (run_id, identity_key) LEFT JOIN named USING (run_id)
  WHERE s.run_id IN ($a, $b) AND s.subject_kind = 'person' AND s.generate_key IS NOT NULL)
SELECT a.identity_key, a.identity_id, b.weak::INT - a.weak::INT AS weak,
  coalesce(a.rests_on = b.rests_on, false) AND a.ceiling IS NOT DISTINCT FROM b.ceiling AS same,
  b.normalized_identity IS NOT NULL AS has_identity, b.concept_accuracy IS NOT NULL AS has_concepts,
  a.normalized_identity IS NOT NULL AS had_identity, a.concept_accuracy IS NOT NULL AS had_concepts
FROM persons a JOIN persons b USING (identity_key)
WHERE a.run_id = $a AND b.run_id = $b AND coalesce(a.photo_digest = b.photo_digest, true) ORDER BY identity_key
"""
# Each person's differences over common prompts and seeds; a prompt counts once, however many seeds it has. Rounded,
# because the same scores in another order have other sums in their last bits.
_DIFFERENCES = """
WITH cells AS (
  SELECT s.run_id, s.identity_key, i.prompt, s.prompt_id, s.seed, s.metric, s.value FROM scores s
  JOIN images i USING (generate_key, prompt_id, seed) WHERE s.run_id IN ($a, $b) AND s.metric IN ('identity', 'concepts')
  AND s.null_reason IS DISTINCT FROM 'no_face_in_photo' AND identity_key IN (SELECT unnest($changed::VARCHAR[]))),
pairs AS (
  SELECT a.identity_key, a.prompt_id, a.metric, a.value AS a, b.value AS b FROM cells a JOIN cells b
  USING (identity_key, prompt, seed, metric) WHERE a.run_id = $a AND b.run_id = $b),
scale AS (SELECT run_id, identity_key, floor, ceiling FROM normalized_identities WHERE run_id IN ($a, $b)),
by_prompt AS (
  SELECT pairs.identity_key, prompt_id, avg((coalesce(b, y.floor) - y.floor) / (y.ceiling - y.floor)
      - (coalesce(a, x.floor) - x.floor) / (x.ceiling - x.floor))
      FILTER (metric = 'identity' AND x.ceiling > x.floor AND y.ceiling > y.floor) AS identity,
    avg(b - a) FILTER (metric = 'concepts') AS concepts
  FROM pairs LEFT JOIN scale x ON x.identity_key = pairs.identity_key AND x.run_id = $a
  LEFT JOIN scale y ON y.identity_key = pairs.identity_key AND y.run_id = $b GROUP BY ALL)
SELECT identity_key, avg(round(concepts, 9)) AS concepts, avg(round(identity, 9)) AS identity,
  stddev_samp(round(identity, 9)) AS spread, count(identity) AS prompts FROM by_prompt GROUP BY ALL
"""
# Whether people of both runs were drawn at the same prompts and seeds; all of a run share its grid, so one each will do.
_ONE_GRID = """
WITH one AS (
  SELECT run_id, min(generate_key) AS generate_key FROM identity_summary
  WHERE run_id IN ($a, $b) AND subject_kind = 'person' GROUP BY ALL),
cells AS (SELECT DISTINCT run_id, prompt, seed FROM one JOIN images USING (generate_key))
SELECT coalesce(bool_and(runs = 2), true) AS one_grid FROM (SELECT count(*) AS runs FROM cells GROUP BY prompt, seed)
"""
_NO_PAIR: Mapping[str, Any] = {"concepts": None, "identity": None, "spread": None, "prompts": 0}


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
        fails: beyond the threshold, with an interval that excludes 0; or missing.
        missing: people have it in the first run, and none of them in the second.
    """

    figure: str
    people: int
    mean: float | None
    low: float | None
    high: float | None
    detectable: float | None
    limit: float
    fails: bool
    missing: bool = False

    @property
    def verdict(self) -> str:
        """What fails, in a word; empty if nothing does."""
        return "not measured" if self.missing else "worse" if self.fails else ""


@dataclass(frozen=True)
class Moved:
    """A person whose normalized identity differs between two runs.

    Attributes:
        identity_id, identity_key: the person.
        difference: the second run's mean over prompts minus the first's.
        p: of a one-sided t-test over prompts, corrected by Holm's method for the people who were compared.
        compared: how many these are: those whose scores differ over prompts.
    """

    identity_id: str
    identity_key: str
    difference: float
    p: float
    compared: int


@dataclass(frozen=True)
class RunComparison:
    """What a comparison of two runs comes to.

    Attributes:
        first, second: the runs.
        people: how many have the same photo and results in both.
        differences: one for each of `FIGURES`.
        worse, better: people who surely are, those with the smallest p first.
        too_few: fewer people than `gate.people`, so that nothing is judged.
        other_grid: the runs have other prompts or seeds. Then floor, ceiling and whether an identity is weak are of other
            images in each, so that normalized identity and weak identities are not compared.
    """

    first: str
    second: str
    people: int
    differences: tuple[Difference, ...]
    worse: tuple[Moved, ...]
    better: tuple[Moved, ...]
    too_few: bool
    other_grid: bool = False

    @property
    def fails(self) -> bool:
        """Whether the second run must not follow the first."""
        return any(each.fails for each in self.differences)

    @property
    def why(self) -> str:
        """What fails, as one phrase; empty if nothing does."""
        return "; ".join(
            f"{each.figure} is not measured"
            if each.missing
            else f"{each.figure} {each.mean:+.3f} ({each.low:+.3f} to {each.high:+.3f}) is beyond {each.limit:+.3f}"
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
    people = _people(tables, first, second)
    # What rests on the same scores was drawn on the same grid.
    changed = any(not each["same"] for each in people)
    runs = {"a": first, "b": second}
    other_grid = changed and not tables.query(_ONE_GRID, runs).column("one_grid")[0].as_py()
    if other_grid:
        for each in people:
            each.update({**_NO_PAIR, "concepts": each["concepts"], "weak": None})
    too_few = len(people) < gate.people
    limits: Mapping[str, float] = {"identity": gate.identity, "concepts": gate.concepts, "weak": gate.weak}
    differences = tuple(
        _difference(
            name, [each[name] for each in people if each[name] is not None], limits[name], judged=not too_few
        )
        for name in FIGURES
    )
    worse, better = (_moved(people, sign) for sign in (-1, 1))
    differences = tuple(
        replace(each, fails=True, missing=True) if _is_missing(each, people) else each for each in differences
    )
    return RunComparison(first, second, len(people), differences, worse, better, too_few, other_grid)


def _is_missing(found: Difference, people: Sequence[Mapping]) -> bool:
    """Whether people have a figure in the first run and none of them has it in the second; weak follows from identity."""
    if found.figure == "weak":
        return False
    had, has = (any(each[f"{when}_{found.figure}"] for each in people) for when in ("had", "has"))
    return had and not has


def _people(tables: Tables, first: str, second: str) -> list[dict[str, Any]]:
    """The people with results in both runs, each with the differences of the three figures; None where one is missing.

    `spread` is the standard deviation of identity over `prompts` prompts.
    """
    runs = {"a": first, "b": second}
    people = tables.query(_PEOPLE, runs).to_pylist()
    changed = [each["identity_key"] for each in people if not each["same"]]
    rows = tables.query(_DIFFERENCES, {**runs, "changed": changed}).to_pylist() if changed else []
    differ = {row["identity_key"]: row for row in rows}
    for each in people:
        if each["same"]:
            equal = {name: 0.0 if each[f"has_{name}"] else None for name in ("identity", "concepts")}
            each.update({**_NO_PAIR, **equal})
        else:
            each.update(differ.get(each["identity_key"], _NO_PAIR))
    return people


def _difference(figure: str, found: Sequence[float], limit: float, *, judged: bool) -> Difference:
    values = np.asarray(found, float)
    count = len(values)
    if count < 2:
        return Difference(figure, count, None, None, None, None, limit, fails=False)
    mean, spread, level = float(values.mean()), float(values.std(ddof=1)), LEVEL / len(FIGURES)
    half = t_quantile(count - 1, 1 - level / 2) * spread / math.sqrt(count) if spread else 0.0
    low, high = mean - half, mean + half
    beyond = mean < limit if limit < 0 else mean > limit
    fails = judged and beyond and not low <= 0 <= high
    least = detectable(spread, count, level=level)
    return Difference(figure, count, mean, low, high, least, limit, fails=bool(fails))


def _moved(people: Sequence[Mapping], sign: int) -> tuple[Moved, ...]:
    """People who are worse (sign -1) or better (1) by a t-test over their prompts, corrected by Holm's method."""
    tested = [each for each in people if each["prompts"] > 1 and each["spread"]]
    if not tested:
        return ()
    from scipy.special import stdtr  # not where nothing differs: loading it takes as long as the query

    found = []
    for each in tested:
        key, difference = each["identity_key"], each["identity"]
        standardized = difference / (each["spread"] / math.sqrt(each["prompts"]))
        p = float(stdtr(each["prompts"] - 1, -sign * standardized))
        found.append(Moved(each["identity_id"], key, difference, p, compared=len(tested)))
    corrected = holm([each.p for each in found])
    moved = [replace(each, p=p) for each, p in zip(found, corrected, strict=True) if p < LEVEL]
    return tuple(sorted(moved, key=lambda each: each.p))
