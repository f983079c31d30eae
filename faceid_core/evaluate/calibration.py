"""How a recognizer's cosines lie for pairs of one person and of two: what makes a cosine readable.

The figures are quantiles over pairs of public photographs (of the renderer's people for the miniature), made by
`tests/helpers/calibrate.py`; no picture and no embedding is among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from faceid_core.yaml_text import read_yaml

from .metric_rows import MetricRows

_FILE = Path(__file__).with_name("calibrations.yaml")


@dataclass(frozen=True)
class Pairs:
    """Cosines of one kind of pairs.

    Args:
        count: of pairs.
        quantiles: (share, cosine) in ascending order; the shares begin with 0 and end with 1.
    """

    count: int
    quantiles: tuple[tuple[float, float], ...]

    def share_below(self, cosine: float) -> float:
        """The share of pairs with a lower cosine, by interpolation between the quantiles; 0 to 1."""
        return float(self.shares_below([cosine])[0])

    def shares_below(self, cosines: Sequence[float]) -> np.ndarray:
        """`share_below` of each."""
        shares, known = zip(*self.quantiles, strict=True)
        return np.interp(cosines, known, shares)


@dataclass(frozen=True)
class Calibration:
    """One recognizer's cosines.

    Args:
        recognizer: as the configuration names it; of the miniature the name of the set of scorers.
        same, different: pairs of one person, and of two people.
        source: which pairs, in words.
    """

    recognizer: str
    same: Pairs
    different: Pairs
    source: str

    @property
    def typical_percentile(self) -> float:
        """The percentile of the median cosine of two pictures of one person."""
        return self.different.share_below(dict(self.same.quantiles)[0.5])

    def percentile(self, cosines: Sequence[float]) -> float | None:
        """The mean share of pairs of different people that are less alike than these pictures, 0 to 1; None for none."""
        if not cosines:
            return None
        return float(self.different.shares_below(cosines).mean())


def percentile_of(
    calibration: Calibration | None, scores: MetricRows, metric: str = "identity"
) -> float | None:
    """The percentile among strangers of the pictures that have a value of a metric; None without a calibration."""
    if calibration is None:
        return None
    return calibration.percentile(list(scores.values(metric).values()))


def calibration_of(recognizer: str) -> Calibration | None:
    """The calibration of a recognizer or of the miniature's set, or None if none was measured."""
    return _all().get(recognizer)


@cache
def _all() -> Mapping[str, Calibration]:
    found = read_yaml(_FILE.read_bytes(), source=_FILE.name, what="calibrations")
    return {
        name: Calibration(name, _pairs(each["same"]), _pairs(each["different"]), each["source"])
        for name, each in found.items()
    }


def _pairs(given: Mapping) -> Pairs:
    return Pairs(given["pairs"], tuple(sorted((float(s), float(c)) for s, c in given["quantiles"].items())))
