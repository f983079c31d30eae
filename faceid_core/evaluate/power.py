"""Power of paired comparisons over people: what a number of people can detect, and how many would decide.

Source: power of the paired t-test from the noncentral t distribution (Cohen, Statistical Power Analysis for the
Behavioral Sciences, 1988).
"""

from __future__ import annotations

import functools
import math

LEVEL = 0.05  # two-sided
POWER = 0.8
LEAST_PEOPLE, MOST_PEOPLE = 3, 10_000


def power_of(difference: float, spread: float, people: int, *, level: float = LEVEL) -> float:
    """The probability that a paired t-test finds a true difference, in either direction.

    Args:
        difference: true mean difference of two variants.
        spread: standard deviation of the difference over people, above 0.
        people: how many, at least 2.
    """
    from scipy import stats  # heavy: loaded where power is asked for

    degrees = people - 1
    critical = stats.t.isf(level / 2, degrees)
    noncentrality = abs(difference) / spread * math.sqrt(people)
    wrong_side = stats.nct.cdf(-critical, degrees, noncentrality)
    # scipy answers NaN where that tail is below what it resolves.
    return float(
        stats.nct.sf(critical, degrees, noncentrality) + (0.0 if math.isnan(wrong_side) else wrong_side)
    )


def detectable(spread: float | None, people: int, *, level: float = LEVEL) -> float | None:
    """The smallest true difference that so many people find with a probability of 0.8; None if that cannot be said."""
    if spread is None or people < LEAST_PEOPLE:
        return None
    if spread == 0:  # without loading what solves for it
        return 0.0
    return spread * _detectable_in_spreads(people, level)


@functools.cache
def _detectable_in_spreads(people: int, level: float) -> float:
    """The same in units of the spread; solved in units of the standard error, in which 3 people need fewer than 80."""
    from scipy.optimize import brentq

    unit = 1 / math.sqrt(people)
    return unit * float(
        brentq(lambda effect: power_of(effect * unit, 1.0, people, level=level) - POWER, 0.0, 100.0)
    )


def people_needed(difference: float | None, spread: float | None, *, level: float = LEVEL) -> int | None:
    """How many people find a true difference with a probability of 0.8; None for more than 10,000 or no difference."""
    if not difference or spread is None:
        return None
    if spread == 0:
        return LEAST_PEOPLE
    low, high = LEAST_PEOPLE - 1, LEAST_PEOPLE
    while power_of(difference, spread, high, level=level) < POWER:
        if high >= MOST_PEOPLE:
            return None
        low, high = high, min(2 * high, MOST_PEOPLE)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if power_of(difference, spread, middle, level=level) >= POWER else (middle, high)
        )
    return high
