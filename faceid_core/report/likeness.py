"""Identity scores as people read them: the share taken for the same person, and the percentile among strangers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faceid_core.evaluate.calibration import Calibration, percentile_of
from faceid_core.evaluate.intervals import mean_of
from faceid_core.evaluate.metric_rows import MetricRows

_ACCEPTED = "identity:accepted"


@dataclass(frozen=True)
class Likeness:
    """What the identity scores of pictures come to.

    Args:
        accepted: share of the pictures with a face that the recognizer takes for the person; None where it has no
            threshold.
        percentile: mean share of pairs of different people that are less alike than a picture and the photo; None without
            a calibration.
        accepted_floor, percentile_floor: the same of the class word's pictures.
    """

    accepted: float | None = None
    percentile: float | None = None
    accepted_floor: float | None = None
    percentile_floor: float | None = None


def likeness_of(
    scores: MetricRows, floor: MetricRows, calibration: Calibration | None
) -> Likeness:
    """The likeness of one person's pictures.

    Args:
        scores: of the person's pictures.
        floor: of the class word's pictures against this person's photo.
        calibration: of the recognizer, or None.
    """
    return Likeness(
        _accepted(scores),
        percentile_of(calibration, scores),
        _accepted(floor),
        percentile_of(calibration, floor),
    )


def mean_likeness(each: Sequence[Likeness]) -> Likeness:
    """The mean over people, of each figure over those who have it."""
    names = ("accepted", "percentile", "accepted_floor", "percentile_floor")
    found = {
        name: mean_of([value for one in each if (value := getattr(one, name)) is not None]) for name in names
    }
    return Likeness(**found)


def percent(share: float | None) -> str:
    """A percentile with the decimals that tell 99.9 % from 100 %."""
    if share is None:
        return "–"
    text = f"{100 * share:.1f} %" if 0.99 <= share < 0.9995 else f"{100 * share:.0f} %"
    return "over 99.9 %" if share >= 0.9995 else text


def _accepted(rows: MetricRows) -> float | None:
    return mean_of(list(rows.values(_ACCEPTED).values()))
