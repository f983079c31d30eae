"""Stage score: one metric over the pictures of each subject."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from faceid_core.evaluate.grid import Prompt
from faceid_core.evaluate.metrics import score, write_scores
from faceid_core.evaluate.pictures import Pictures
from faceid_core.evaluate.scorers import Scorers
from faceid_core.evaluate.shards import read_shard
from faceid_core.progress import ProgressCallback
from faceid_core.stages.executing.stage import Inputs, StageResult
from faceid_core.stages.files import read_png
from faceid_core.stages.models import Models
from faceid_core.stages.planning.score import SCORES, uses_photo_detector
from faceid_core.stages.work import METRIC_PREFIX, Work
from faceid_core.store.cache import Output
from faceid_core.weights.roles import photograph_roles

_KEPT_PICTURES = 2  # metrics of one subject follow one another and share decoding, detection and embedding


def execute(
    works: Sequence[Work], inputs: Sequence[Inputs], models: Models, on_progress: ProgressCallback
) -> Iterator[StageResult]:
    """Score each subject's shard by the metric that the works name. Output: scores.parquet."""
    metric = works[0].call.stage.removeprefix(METRIC_PREFIX)
    scorers = _scorers(models, metric)
    where = {"device": models.device} if _on_accelerator(models, metric) else {}
    for index, (work, blobs) in enumerate(zip(works, inputs, strict=True)):
        parameters = work.call.parameters
        prompts = [
            Prompt(i, text, category, {kind: tuple(names) for kind, names in expected.items()})
            for i, text, category, expected in parameters["prompts"]
        ]
        rows = score(
            metric,
            _pictures(models, scorers, work.call.inputs["pictures"], blobs["pictures"]),
            prompts=prompts,
            reference=read_png(blobs["reference"]) if "reference" in blobs else None,
            others=_others(parameters.get("other_pictures")),
            class_word=parameters["class_word"],
            scorers=scorers,
        )
        parquet = Output(write_scores(rows), "application/vnd.apache.parquet", inline=True)
        on_progress(work.subject, 1, 1)
        yield index, {SCORES: parquet}, dict(where)


def _others(drawn: Mapping[str, int] | None) -> list[np.ndarray]:
    """The other pictures of a person that the renderer draws; none if it does not know the person."""
    if drawn is None:
        return []
    # The renderer: only works that ask for such pictures need it.
    from faceid_core.miniature.samples import other_portraits

    return other_portraits(drawn["renderer_seed"], drawn["count"])


def _on_accelerator(models: Models, metric: str) -> bool:
    """Whether CLIP computed, where the base model does; all other scorers compute on the CPU."""
    clip_roles = {"image_text", "second_image_text", "embedder"}
    asks_clip = not clip_roles.isdisjoint(photograph_roles(metric))
    return models.settings.scores_photographs and asks_clip


def _scorers(models: Models, metric: str) -> Scorers:
    """The scorers, with the photos' detector in its place where the metric asks for that one."""
    own = not models.settings.scores_photographs
    if own and uses_photo_detector(metric, models.settings.faces_backend):
        return replace(models.scorers, detector=models.detector)
    return models.scorers


def _pictures(models: Models, scorers: Scorers, digest: str, shard: bytes) -> Pictures:
    """The shard's pictures, kept from metric to metric; each detector has its own, since they keep its faces."""
    kept, name = models.kept_pictures, (digest, scorers.detector.name)
    if name in kept:
        kept.move_to_end(name)  # the class word's pictures are scored against every person
    else:
        kept[name] = Pictures(read_shard(shard), scorers)
        while len(kept) > _KEPT_PICTURES:
            kept.popitem(last=False)
    return kept[name]
