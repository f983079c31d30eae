"""What driver and workers pass to each other: subjects, pieces of work and their outcomes; never pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from faceid_core.errors import FaceidError
from faceid_core.store.cache import Manifest, Output
from faceid_core.store.keys import StageCall

if TYPE_CHECKING:
    from faceid_core.stages.models import Models

COMMON = "common"
MADE_ELSEWHERE = "made_elsewhere"  # why a work is done that another run did meanwhile
JOURNAL = "journal"  # name of the input that holds an interrupted stage's last entry


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
    """One stage for one subject. `result` is the name under which the subject keeps the manifest.

    `replace`: compute although there is a result. `patient`: wait for another run that is at it, where a worker would
    else hand it back as "elsewhere".
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
    """What became of a piece of work; carries names and digests only.

    "elsewhere" is between worker and executor only: another run is at it, so it is to be tried again later.
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
    """A person of the manifest, the class word (floor) or a named person (ceiling), and what is known of it.

    `name` is the identity key, or for common subjects a slug; `text` is what stands for V* in their prompts. Where
    the user gave a box or a mask of a subject that is no person (`is_given`), no face is looked for.
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
        """Locate the given mask, which the driver put beside the photo."""
        assert self.subject_mask_digest is not None
        return Source(self.scope, "photo", self.subject_mask_digest, self.subject_mask_digest)

    def photo(self) -> Source:
        """Locate the photo, which the driver put beside the person's other blobs."""
        assert self.photo_digest is not None
        return Source(self.scope, "photo", self.photo_digest, self.photo_digest)


@dataclass(frozen=True)
class Entry:
    """How far a stage has come with a piece of work, in its own format: bytes for whoever goes on with it."""

    data: bytes


Outputs = Mapping[str, Output]


class Stage(Protocol):
    """One stage of the pipeline."""

    name: str
    version: int
    batch: int | None

    def execute(
        self, works: Sequence[Work], inputs: Sequence[Mapping[str, bytes]], models: Models, tick: Any
    ) -> Iterator[tuple[int, Outputs | Exception | Entry, dict[str, Any]]]:
        """Yield (index of the work, outputs or the exception that ended it, provenance of this work).

        A stage with the attribute `keeps_journal` may also yield entries of works that it goes on with; who runs
        such a work again finds the last one among its inputs, as `JOURNAL`.

        Args:
            works: Pieces of work that share a pass; their `call.parameters` are the only parameters.
            inputs: For each work, its input blobs by name, already checked against their digests.
            models: The models of this worker, loaded at first use.
            tick: Called with (subject, done, total) as the work advances.
        """
        ...


def call_for(
    stage: str,
    version: int,
    parameters: Mapping[str, Any],
    sources: Mapping[str, Source],
    weights: Mapping[str, str],
    precision: str,
) -> StageCall:
    """Build the StageCall whose inputs are the digests of the sources."""
    return StageCall(
        stage=stage,
        version=version,
        parameters=dict(parameters),
        precision=precision,
        inputs={name: source.digest for name, source in sources.items()},
        weights=dict(weights),
    )
