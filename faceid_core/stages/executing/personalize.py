"""Stage personalize: tokens per person, many people in one padded batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from safetensors.numpy import save

from faceid_core.config.method import Method
from faceid_core.personalize.checkpoint import Checkpoint
from faceid_core.personalize.trainer import PersonalizeResult, TrainingPhoto, personalize
from faceid_core.progress import ProgressCallback
from faceid_core.stages.executing.stage import CHECKPOINT, Inputs, Outputs, StageCheckpoint, StageResult
from faceid_core.stages.files import json_output, read_json, read_png
from faceid_core.stages.models import Models
from faceid_core.stages.work import Work
from faceid_core.store.cache import Output


class SlotStopped(Exception):
    """Training of one person stopped; the text is the trainer's reason."""


def execute(
    works: Sequence[Work], inputs: Sequence[Inputs], models: Models, on_progress: ProgressCallback
) -> Iterator[StageResult]:
    """Train every person of the works, which share method and seed because the plan gives all the same.

    Outputs: tokens.safetensors, curve.json, attention.safetensors, training.json.
    """
    index_of = {work.subject: index for index, work in enumerate(works)}
    shared = works[0].call.parameters
    assert all(work.call.parameters["method"] == shared["method"] for work in works)
    method = Method.model_validate(shared["method"])
    results = personalize(
        models.base,
        [_training_photo(work, blobs) for work, blobs in zip(works, inputs, strict=True)],
        method,
        slots=models.settings.slots or models.measured_slots(method),
        samples_at_once=models.settings.samples_at_once,
        seed=shared["seed"],
        progress=on_progress,
        checkpoint={
            work.subject: blobs[CHECKPOINT]
            for work, blobs in zip(works, inputs, strict=True)
            if CHECKPOINT in blobs
        },
        checkpoint_seconds=models.settings.checkpoint_seconds,
        prior=models.prior,
    )
    for result in results:
        index = index_of[result.name]
        if isinstance(result, Checkpoint):
            yield index, StageCheckpoint(result.data), {}
        elif isinstance(result, PersonalizeResult):
            seconds = result.seconds
            provenance = {"training_seconds": seconds, "slots": result.slots, "share_seconds": seconds}
            yield index, _outputs(result), provenance
        else:
            yield index, SlotStopped(result.reason), {}


def _outputs(result: PersonalizeResult) -> Outputs:
    maps = {"after": result.attention_after, "before": result.attention_before}
    curve = [{k: v for k, v in row.items() if k != "seconds"} for row in result.curve]
    training: dict[str, Any] = {
        "outside_before": result.outside_before,
        "outside_after": result.outside_after,
    }
    if result.restarted:
        training["restarted"] = result.restarted
    return {
        "tokens.safetensors": Output(result.tokens.to_bytes(), "application/octet-stream"),
        "curve.json": json_output(curve),
        "attention.safetensors": Output(save(maps), "application/octet-stream"),
        "training.json": json_output(training),
    }


def _training_photo(work: Work, blobs: Inputs) -> TrainingPhoto:
    return TrainingPhoto(
        name=work.subject,
        photo_digest=work.call.inputs["photo"],
        image=read_png(blobs["crop"]),
        mask=read_png(blobs["mask"]).astype("float32") / 255.0,
        valid=read_png(blobs["valid"]) > 0,
        class_word=work.call.parameters["class_word"],
        original_pixels=_original_pixels(blobs),
    )


def _original_pixels(blobs: Inputs) -> int:
    """Side of the crop in pixels of the photo; 0 where the base model reads no sizes."""
    if "detection" not in blobs:
        return 0
    transform = read_json(blobs["detection"])["transform"]  # photo to crop, [2, 3]
    return round(len(read_png(blobs["crop"])) / math.hypot(transform[0][0], transform[1][0]))
