"""Whether a published claim holds in one condition of a study: agrees, does not, undecided, or not testable here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from faceid_core.evaluate.intervals import mean_of
from faceid_core.evaluate.power import MOST_PEOPLE, detectable, people_needed

from .compare import LOWER_IS_BETTER, PairedDifference, holm_corrected, mean_over_people, paired_difference
from .rows import CONCEPT_ACCURACIES
from .study import Claim

Verdict = Literal["agrees", "does not agree", "undecided", "not testable here", "not measured"]

# The best value of a measure, beyond which no variant can go.
_BEST = {"identity_fraction": 1.0, "balance": 1.0, "attention_outside": 0.0, "leakage": 0.0, "copying": 0.0}


@dataclass(frozen=True)
class Judgment:
    """A claim's verdict with what it rests on.

    Args:
        pairs: by variant that is to be worse, the paired advantage, turned so that above 0 speaks for the claim.
        people: of an undecided claim, how many would decide if the differences are those seen; None for more than 10,000.
        room: of a claim that is not testable here, the largest advantage that was possible.
        detectable: of such a claim, the smallest that so many people find with a probability of 0.8.
    """

    verdict: Verdict
    pairs: Mapping[str, PairedDifference]
    people: int | None = None
    room: float | None = None
    detectable: float | None = None

    @property
    def text(self) -> str:
        """The verdict with its number, as a page shows it."""
        if self.verdict == "undecided":
            number = f"about {self.people:,} people" if self.people else f"more than {MOST_PEOPLE:,} people"
            return f"**undecided**; {number} would decide"
        if self.verdict == "not testable here":
            return f"**not testable here**: room {self.room:.3f}, detectable {self.detectable:.3f}"
        return f"**{self.verdict}**"


def judge_claim(frame: pd.DataFrame, claim: Claim) -> Judgment:
    """Whether a claim holds, from paired intervals over people.

    It agrees if every comparison's 95 % interval lies above 0 (all must hold, which needs no correction) and does not
    agree if one lies below 0 after correction for their number. Else it is not testable here if a comparison without a
    sure advantage has less room than the people measured can detect, and undecided if all have more.

    Args:
        frame: rows of one condition, with floor and ceiling.
    """
    pairs = turned_pairs(frame, claim)
    if any(pair.people < 2 for pair in pairs.values()):
        return Judgment("not measured", pairs)
    open_pairs = {label: pair for label, pair in pairs.items() if not _is_above_zero(pair)}
    if not open_pairs:
        return Judgment("agrees", pairs)
    if any(pair.significant_sign < 0 for pair in pairs.values()):
        return Judgment("does not agree", pairs)
    for label, pair in open_pairs.items():
        possible, least = room(frame, claim.measure, label), detectable(pair.spread, pair.people)
        if possible is not None and least is not None and possible < least:
            return Judgment("not testable here", pairs, room=possible, detectable=least)
    return Judgment("undecided", pairs, people=_people_that_decide(open_pairs))


def turned_pairs(frame: pd.DataFrame, claim: Claim) -> dict[str, PairedDifference]:
    """By variant that is to be worse, the paired advantage of the better one, so that above 0 speaks for the claim."""
    sign = -1.0 if claim.measure in LOWER_IS_BETTER else 1.0
    turned = frame.assign(**{claim.measure: sign * frame[claim.measure]})
    return holm_corrected(
        {label: paired_difference(turned, claim.measure, claim.better, label) for label in claim.worse}
    )


def room(frame: pd.DataFrame, measure: str, label: str) -> float | None:
    """How far the mean of a variant lies from the best value that any variant could have; None if that is not known.

    The best is 1 for normalized identity and balance (people whom the model knows), the class word's or the known
    people's concept accuracy, whichever is higher, 1 for a share of images, and 0 for what is better the less of it
    there is.
    """
    mean = mean_over_people(frame, label, measure).mean
    best = _best(frame, measure)
    if mean is None or best is None:
        return None
    return max(0.0, mean - best if measure in LOWER_IS_BETTER else best - mean)


def _best(frame: pd.DataFrame, measure: str) -> float | None:
    if measure == "concepts_fraction":
        floor = mean_of(frame[frame.kind == "floor"][measure].dropna().to_list())
        return max(1.0, floor or 0.0)
    if measure == "leakage_excess":
        floor = mean_of(frame[frame.kind == "person"].leakage_floor.dropna().to_list())
        return None if floor is None else -floor
    if measure in CONCEPT_ACCURACIES:
        return 1.0
    return _BEST.get(measure)


def _is_above_zero(pair: PairedDifference) -> bool:
    return pair.difference.low is not None and pair.difference.low > 0


def _people_that_decide(pairs: Mapping[str, PairedDifference]) -> int | None:
    """Against the claim one sure comparison decides, for it all must be sure."""
    against = {label: pair for label, pair in pairs.items() if (pair.difference.mean or 0.0) < 0}
    needed = [people_needed(pair.difference.mean, pair.spread) for pair in (against or pairs).values()]
    counted = [number for number in needed if number is not None]
    if against:
        return min(counted, default=None)
    return max(counted) if len(counted) == len(needed) else None
