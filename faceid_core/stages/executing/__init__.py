"""The executing half of the stages: from the bytes of a work's inputs to the bytes of its outputs, with the models."""

from __future__ import annotations

from importlib import import_module

from faceid_core.stages.executing.stage import StageFunction
from faceid_core.stages.work import pipeline_stage


def stage_function(name: str) -> StageFunction:
    """Return the function that executes a stage: one of STAGES, or 'score-identity' and so on for a metric.

    Only that stage's module is imported: detect, parse and mask must not wait for torch.
    """
    return import_module(f"{__name__}.{pipeline_stage(name)}").execute
