"""Stage prior: the base model draws portraits of its own names, and the name prior is fitted to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from faceid_core.evaluate.name_portraits import learn_name_prior
from faceid_core.progress import ProgressCallback
from faceid_core.stages.executing.stage import Inputs, StageResult
from faceid_core.stages.models import Models
from faceid_core.stages.name_prior import OUTPUT
from faceid_core.stages.work import Work
from faceid_core.store.cache import Output


def execute(
    works: Sequence[Work], _inputs: Sequence[Inputs], models: Models, on_progress: ProgressCallback
) -> Iterator[StageResult]:
    """Learn the prior of each work's names.

    Outputs: prior.safetensors.
    """
    for index, work in enumerate(works):
        asked = work.call.parameters
        prior = learn_name_prior(
            models.base,
            asked["names"],
            template=asked["template"],
            portraits=asked["portraits"],
            steps=asked["steps"],
            components=asked["components"],
            progress=lambda done, total, name=work.subject: on_progress(name, done, total),
        )
        provenance = {"names": len(prior.names), "names_left_out": prior.left_out}
        yield index, {OUTPUT: Output(prior.to_bytes(), "application/octet-stream")}, provenance
