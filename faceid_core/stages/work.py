"""What driver and workers pass to each other: subjects, pieces of work and their outcomes; never pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from faceid_core.errors import FaceidError
from faceid_core.store.cache import Manifest
from faceid_core.store.keys import StageCall
from faceid_core.store.layout import COMMON as COMMON  # re-exported: the scope of what belongs to no person

STAGES = ("detect", "parse", "mask", "personalize", "generate", "score")
METRIC_PREFIX = "score-"  # of the stage name of a metric, before the metric's own
FLOOR_PREFIX = "floor_"  # of the name of a result of a person's floor, before the stage's
MADE_ELSEWHERE = "made_elsewhere"  # reason of a work that another run finished meanwhile


@dataclass(frozen=True)
class Reuse:
    """How earlier results of a stage save a part of a work.

    Attributes:
        output: the output of an earlier result that the stage reads.
        applies: whether an earlier result, by its preimage, can serve a call.
    """

    output: str
    applies: Callable[[Mapping[str, Any], StageCall], bool]


@dataclass(frozen=True)
class StageSpec:
    """What driver and workers agree on about a stage.

    Attributes:
        name: as it stands in the stage key; 'score-identity' and so on for a metric.
        version: raised when the same inputs may give another result.
        batch: how many works share a pass at most; None for the configured number of slots.
        keeps_checkpoints: whether an interrupted work goes on from the last checkpoint of it.
        reuse: what earlier results save; None for nothing.
    """

    name: str
    version: int
    batch: int | None
    keeps_checkpoints: bool = False
    reuse: Reuse | None = None


def pipeline_stage(name: str) -> str:
    """Return the stage of STAGES that a call's stage belongs to: 'score' for 'score-identity'."""
    return "score" if name.startswith(METRIC_PREFIX) else name


def metric_result(metric: str, *, floor: bool = False) -> str:
    """The name of a metric's result: of a person's pictures, or of the class word's against the person's photo."""
    return f"{FLOOR_PREFIX if floor else ''}{METRIC_PREFIX}{metric}"


def is_score(result: str) -> bool:
    """Whether a result's name, or a stage's, is a metric's."""
    return pipeline_stage(result.removeprefix(FLOOR_PREFIX)) == "score"


class InputMissing(FaceidError):
    """A stage cannot be planned for a subject, because an earlier one left no result; `stage` names that one."""

    def __init__(self, subject: str, stage: str):
        self.stage = stage
        super().__init__(f"{subject} has no result of stage {stage}; run again")


@dataclass(frozen=True)
class Source:
    """Where one input of a piece of work lies: a blob and the stage that made it."""

    scope: str
    stage: str
    stage_key: str
    digest: str


@dataclass(frozen=True)
class Work:
    """One stage for one subject.

    Attributes:
        sources: where each input of the call lies.
        result: the name under which the subject keeps the manifest.
        replace: compute although there is a result.
        patient: wait for another run that computes it; otherwise the worker hands it back as "elsewhere".
    """

    subject: str
    scope: str
    call: StageCall
    sources: Mapping[str, Source]
    result: str
    replace: bool = False
    patient: bool = False


@dataclass(frozen=True)
class Done:
    """The outcome of a piece of work; carries names and digests only.

    Only workers answer "elsewhere": another run computes the work, so the executor tries it again later.
    """

    work: Work
    status: Literal["done", "rejected", "failed", "damaged", "refused", "not_reached", "elsewhere"]
    reason: str | None = None
    message: str | None = None
    value: float | None = None
    threshold: float | None = None
    seconds: float = 0.0
    attempts: int = 1
    damaged: Source | None = None


@dataclass
class Subject:
    """A person of the manifest, the class word (floor) or a named person (ceiling), and the results so far.

    Attributes:
        name: the identity key, or a slug for common subjects.
        text: what stands for V* in the prompts of common subjects.
        subject_box, subject_mask_digest: where the user pointed at a subject that is no person (`is_given`); no face
            is searched for then.
        manifests: by the name of the result.
    """

    kind: Literal["person", "class_word", "named"]
    name: str
    scope: str
    class_word: str
    text: str | None = None
    identity_id: str | None = None
    photo_digest: str | None = None
    face_box: tuple[float, float, float, float] | None = None
    subject_box: tuple[float, float, float, float] | None = None
    subject_mask_digest: str | None = None
    manifests: dict[str, Manifest] = field(default_factory=dict)

    def source(self, result: str, output: str) -> Source:
        """Locate an output of a finished stage.

        Raises:
            InputMissing: that stage left no result, or one without this output.
        """
        manifest = self.manifests.get(result)
        if manifest is None or output not in manifest.outputs:
            raise InputMissing(self.name, result)
        return Source(self.scope, manifest.stage, manifest.stage_key, manifest.outputs[output].digest)

    @property
    def is_given(self) -> bool:
        """Whether the user said where the subject is."""
        return self.subject_box is not None or self.subject_mask_digest is not None

    def subject_mask(self) -> Source:
        """Locate the user's mask, which the driver put beside the photo."""
        assert self.subject_mask_digest is not None
        return Source(self.scope, "photo", self.subject_mask_digest, self.subject_mask_digest)

    def photo(self) -> Source:
        """Locate the photo, which the driver put beside the person's other blobs."""
        assert self.photo_digest is not None
        return Source(self.scope, "photo", self.photo_digest, self.photo_digest)
