"""Statistics over a study's rows of one condition: means over people, and paired differences of variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from faceid_core.evaluate.intervals import NOTHING, Interval, holm, over_people
from faceid_core.evaluate.power import LEVEL

# Of these, less is better.
LOWER_IS_BETTER = frozenset({"attention_outside", "leakage", "leakage_excess", "copying", "seconds"})


@dataclass(frozen=True)
class PairedDifference:
    """A variant minus another over the people whom both measured.

    Args:
        people: how many.
        difference: mean with its 95 % interval over people.
        p: of the paired t-test, two-sided; None for fewer than two people.
        p_holm: corrected for the comparisons made together.
        spread: standard deviation of the difference over people; None for fewer than two.
    """

    people: int
    difference: Interval
    p: float | None
    p_holm: float | None = None
    spread: float | None = None

    @property
    def significant_sign(self) -> int:
        """1 above, -1 below, 0 not significant at the 5 % level after correction."""
        mean = self.difference.mean
        if mean is None or self.p_holm is None or self.p_holm >= LEVEL:
            return 0
        return int(np.sign(mean))


def balance(identity: float | None, concepts: float | None) -> float | None:
    """Harmonic mean of identity and obedience, each as a fraction of what the model can do.

    Args:
        identity: the way from floor (0) to ceiling (1); below the floor counts as 0.
        concepts: share of the ceiling's.
    """
    if identity is None or concepts is None:
        return None
    identity, concepts = max(identity, 0.0), max(concepts, 0.0)
    return 0.0 if identity + concepts == 0 else 2 * identity * concepts / (identity + concepts)


def mean_over_people(frame: pd.DataFrame, variant: str, measure: str) -> Interval:
    """Mean of a variant with its 95 % interval over people."""
    values = frame.loc[(frame.kind == "person") & (frame.variant == variant), measure].dropna()
    return over_people(values.to_list()) if len(values) else NOTHING


def paired_difference(frame: pd.DataFrame, measure: str, variant: str, other: str) -> PairedDifference:
    """The paired difference of two variants, over people who have the measure in both."""
    people = frame[frame.kind == "person"]
    one, two = (
        people[people.variant == label].set_index("subject")[measure].dropna() for label in (variant, other)
    )
    differences = (one - two).dropna().to_numpy(float)  # [people in both]
    if not len(differences):
        return PairedDifference(0, NOTHING, None)
    return PairedDifference(
        len(differences),
        over_people(differences.tolist()),
        _p_value(differences),
        spread=float(differences.std(ddof=1)) if len(differences) > 1 else None,
    )


def _p_value(differences: np.ndarray) -> float | None:
    from scipy import stats  # heavy: loaded where two variants are compared

    if len(differences) < 2:
        return None
    if np.ptp(differences) == 0:  # the t statistic is 0 / 0 or infinite
        return 1.0 if differences[0] == 0 else 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm_corrected(pairs: Mapping[str, PairedDifference]) -> dict[str, PairedDifference]:
    """The same comparisons, corrected by Holm for being made together."""
    tested = {name: pair.p for name, pair in pairs.items() if pair.p is not None}
    values = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {name: replace(pair, p_holm=values.get(name)) for name, pair in pairs.items()}


def differences_from(
    frame: pd.DataFrame, measure: str, other: str, variants: Sequence[str]
) -> dict[str, PairedDifference]:
    """Every variant minus `other`, corrected for their number."""
    return holm_corrected(
        {label: paired_difference(frame, measure, label, other) for label in variants if label != other}
    )


def best_variant(frame: pd.DataFrame, measure: str, variants: Sequence[str]) -> str | None:
    """The variant with the best mean; None if none has any."""
    sign = -1.0 if measure in LOWER_IS_BETTER else 1.0
    means = {label: mean_over_people(frame, label, measure).mean for label in variants}
    measured = {label: sign * mean for label, mean in means.items() if mean is not None}
    return max(measured, key=lambda label: measured[label]) if measured else None
