"""What every stage's `execute` takes and yields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from faceid_core.progress import ProgressCallback
from faceid_core.stages.models import Models
from faceid_core.stages.work import Work
from faceid_core.store.cache import Output

CHECKPOINT = "checkpoint"  # name of the input that holds the last checkpoint of an interrupted work
EARLIER = "earlier:"  # names of inputs that hold outputs of earlier results, before their number

Inputs = Mapping[str, bytes]  # input blobs by name
Outputs = Mapping[str, Output]  # output blobs by name


@dataclass(frozen=True)
class StageCheckpoint:
    """How far a stage has come with a work, in the stage's own format; another attempt goes on from there."""

    data: bytes


# Index of the work; its outputs, the exception that ended it, or a checkpoint; and its provenance, in which
# "share_seconds" is the work's own share of a pass that works share.
StageResult = tuple[int, Outputs | Exception | StageCheckpoint, dict[str, Any]]


class StageFunction(Protocol):
    """Executes one stage over a batch of works."""

    def __call__(
        self,
        works: Sequence[Work],
        inputs: Sequence[Inputs],
        models: Models,
        on_progress: ProgressCallback,
    ) -> Iterator[StageResult]:
        """Yield one result for each work, in any order, and checkpoints on the way where the spec says so.

        Args:
            works: Pieces of work that share a pass; their `call.parameters` are the only parameters.
            inputs: For each work, its input blobs, already checked against their digests.
            models: The models of this worker, loaded at first use.
            on_progress: Called with the subject's name as its work advances.
        """
        ...
