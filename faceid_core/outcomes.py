"""The outcome reports of a run: what became of every identity, and the exit status that follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """What became of one identity in one run."""

    DONE = "done"
    CACHED = "cached"
    REJECTED = "rejected"
    REFUSED = "refused"
    FAILED = "failed"
    NOT_REACHED = "not_reached"


# Reasons of a failure (names of exceptions) that the same photo, method and seed bring again: training was
# restarted at a lower rate, and pictures follow from tokens and seeds. No further attempt is made.
UNLEARNABLE = frozenset({"SlotStopped", "ConstantPictures"})

# Reasons that are a model's, not a person's: every worker has the same files, so no further attempt is made either.
MODEL_AT_FAULT = frozenset({"UnusableWeights"})

WEAK = (
    "the pictures are not surely more like the photo than the class word's are; try another photo, more steps or a lower "
    "learning rate (personalize.method), or another personalize.preset"
)

MOST_NAMED = 10  # people in one sentence

EXIT_COMPLETE, EXIT_BUG, EXIT_FAILURES, EXIT_CONFIGURATION, EXIT_WORSE, EXIT_INTERRUPTED = 0, 1, 2, 3, 4, 130


@dataclass
class OutcomeReport:
    """One identity's way through a run; `outcome` stays None while it is under way.

    `weak`: finished, and not surely above the class word; None where that cannot be told. `same_photo`: how many other
    identities of the run have the very same photo; None where it was not read.
    """

    identity_id: str
    identity_key: str
    outcome: Outcome | None = None
    stage: str | None = None
    reason: str | None = None
    message: str | None = None
    value: float | None = None
    threshold: float | None = None
    attempts: int = 0
    seconds: float = 0.0
    computed: bool = False
    weak: bool | None = None
    same_photo: int | None = None
    stage_keys: dict[str, str] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether later stages still concern this identity."""
        return self.outcome is None

    @property
    def sentence(self) -> str | None:
        """What the operator or supplier should know: why it ended early, or a remark on the result."""
        if self.message:
            return self.message
        remarks = [WEAK] if self.weak else []
        if self.same_photo:
            others = "another identity" if self.same_photo == 1 else f"{self.same_photo} other identities"
            remarks.append(
                f"{others} of this run ha{'s' if self.same_photo == 1 else 've'} the very same photo"
            )
        return "; ".join(remarks) or None

    def close(
        self,
        outcome: Outcome,
        *,
        stage: str | None = None,
        reason: str | None = None,
        message: str | None = None,
    ) -> None:
        """Record the end of this identity's way; the first end counts."""
        if self.outcome is None:
            self.outcome, self.stage, self.reason, self.message = outcome, stage, reason, message

    def reject(
        self,
        stage: str,
        reason: str | None,
        sentence: str | None,
        value: float | None,
        threshold: float | None,
    ) -> None:
        """Close as rejected, with the figures behind the reason."""
        self.close(Outcome.REJECTED, stage=stage, reason=reason, message=sentence)
        self.value, self.threshold = value, threshold

    def finish(self) -> None:
        """End a way that met no obstacle: done if anything was computed, else cached."""
        self.close(Outcome.DONE if self.computed else Outcome.CACHED)


def some_of(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def tally(outcome_reports: Iterable[OutcomeReport]) -> dict[str, int]:
    """Count the identities of each outcome; every outcome is present."""
    counts = Counter(str(a.outcome) for a in outcome_reports)
    return {str(outcome): counts.get(str(outcome), 0) for outcome in Outcome}


def exit_status(outcome_reports: Iterable[OutcomeReport], *, max_failed_share: float) -> int:
    """0 when failed and not-reached people stay within the share that the configuration allows, else 2."""
    outcome_reports = list(outcome_reports)
    lost = sum(a.outcome in (Outcome.FAILED, Outcome.NOT_REACHED) for a in outcome_reports)
    return EXIT_FAILURES if outcome_reports and lost / len(outcome_reports) > max_failed_share else EXIT_COMPLETE
