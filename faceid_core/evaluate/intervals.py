"""95 % intervals, over one person's pictures by bootstrap and over people by Student's t; correction of many tests."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
_SEED = 20_240_201


class Interval(NamedTuple):
    """A mean with the ends of its 95 % interval; None where there are too few values."""

    mean: float | None
    low: float | None
    high: float | None


NOTHING = Interval(None, None, None)


def mean_of(values: Sequence[float]) -> float | None:
    """The mean; None for no values."""
    return float(np.mean(values)) if len(values) else None


@lru_cache(maxsize=32)
def _resampled(clusters: int) -> np.ndarray:
    """Which clusters each resample draws, int [resamples, clusters]: the same ones each time."""
    return np.random.default_rng(_SEED).integers(0, clusters, (RESAMPLES, clusters))


def over_pictures(values: Sequence[float], prompts: Sequence[Hashable]) -> Interval:
    """Mean of one person's pictures, with a bootstrap interval over prompts x seeds.

    Whole prompts are drawn with replacement, each with all its seeds: pictures of one prompt resemble each
    other, and resampling single pictures would make the interval too narrow. With a single prompt the
    pictures themselves are resampled. The random state is fixed, so that equal scores give equal intervals.

    Args:
        values: one for each picture.
        prompts: the prompt of each picture.
    """
    data = np.asarray(values, np.float64)
    if len(data) != len(prompts):
        raise ValueError(f"{len(data)} values came with {len(prompts)} prompts")
    if len(data) < 2:
        return Interval(mean_of(values), None, None)
    _, cluster = np.unique(np.asarray([str(prompt) for prompt in prompts]), return_inverse=True)
    if cluster.max() == 0:
        cluster = np.arange(len(data))
    sums = np.bincount(cluster, weights=data)  # [clusters]
    counts = np.bincount(cluster)  # [clusters]
    drawn = _resampled(len(sums))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)  # [resamples]
    low, high = np.percentile(means, (2.5, 97.5))
    mean = float(data.mean())
    # Equal values: the resampled means differ from the mean in their last bit, on either side.
    return Interval(mean, min(float(low), mean), max(float(high), mean))


def over_people(values: Sequence[float]) -> Interval:
    """Mean over people with Student's t interval, one value for each person."""
    data = np.asarray(values, np.float64)
    if len(data) < 2:
        return Interval(mean_of(values), None, None)
    half = t_quantile(len(data) - 1) * float(data.std(ddof=1)) / math.sqrt(len(data))
    mean = float(data.mean())
    return Interval(mean, mean - half, mean + half)


def t_quantile(degrees: int, probability: float = 0.975) -> float:
    """Quantile of Student's t distribution.

    Args:
        degrees: degrees of freedom, at least 1.
        probability: that a value is below it.
    """
    # scipy is loaded only where an interval over people is computed; scipy.stats would take four times as long.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    count = len(p_values)
    corrected = [0.0] * count
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
