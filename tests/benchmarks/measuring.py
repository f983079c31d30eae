"""Repeated, alternating measurements, and what they come to: a median with its range."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """The median of some repeats and the range in which all of them lay."""

    median: float
    low: float
    high: float
    repeats: int


def spread(values: Sequence[float]) -> Spread:
    """Median and range.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("a median needs at least one repeat")
    return Spread(statistics.median(values), min(values), max(values), len(values))


def alternate(
    cases: Mapping[Hashable, Callable[[], float]], repeats: int, *, warm: int = 1
) -> dict[Hashable, list[float]]:
    """Measure cases in turn: a, b, c, a, b, c, ..., so that whatever slows the machine down slows all of them.

    Args:
        cases: name -> a function that measures once.
        repeats: kept rounds.
        warm: rounds before them that are thrown away.

    Returns:
        name -> one figure for each kept round.
    """
    found: dict[Hashable, list[float]] = {name: [] for name in cases}
    for number in range(warm + repeats):
        for name, measure in cases.items():
            figure = measure()
            if number >= warm:
                found[name].append(figure)
    return found


def ratios(upper: Sequence[float], lower: Sequence[float]) -> Spread:
    """upper / lower within each round, so that a slow round cancels out."""
    return spread([a / b for a, b in zip(upper, lower, strict=True)])


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds of wall-clock time that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@dataclass(frozen=True)
class Budget:
    """Seconds of wall-clock time that a piece of measuring may take, from now on."""

    seconds: float
    began: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """What is not used up; negative after that."""
        return self.began + self.seconds - time.perf_counter()

    def part(self, seconds: float) -> Budget:
        """A budget of its own for a part, which ends no later than this one."""
        return Budget(min(seconds, self.left))


def repeated(work: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call of `work`, which is called until so many seconds are over, and at least once."""
    budget, found = Budget(seconds), []
    while not found or budget.left > 0:
        found.append(seconds_of(work))
    return found


@dataclass(frozen=True)
class Line:
    """A least-squares line seconds = start + each * number.

    Attributes:
        start: what no number explains. each: seconds for each further one.
        deviation: the largest distance of a measured point from the line, as a share of the point.
    """

    start: float
    each: float
    deviation: float


def line_through(numbers: Sequence[float], seconds: Sequence[float]) -> Line:
    """Fit a line; two numbers or more.

    Raises:
        ValueError: fewer than two different numbers.
    """
    if len(set(numbers)) < 2:
        raise ValueError(f"a line needs two different numbers, not {sorted(set(numbers))}")
    x, y = np.asarray(numbers, float), np.asarray(seconds, float)
    each, start = np.polyfit(x, y, 1)
    return Line(float(start), float(each), float(np.max(np.abs(start + each * x - y) / y)))
