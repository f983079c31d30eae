"""Plan stage mask: the parsed labels and the part of the crop that lies inside the photo."""

from __future__ import annotations

from typing import Any

from faceid_core.stages.plan import Plan
from faceid_core.stages.work import StageSpec, Subject, Work

SPEC = StageSpec("mask", version=1, batch=256)


def plan_works(plan: Plan, subject: Subject) -> list[Work]:
    """Plan a person's training mask; floor and ceiling are not trained and have none."""
    if subject.kind != "person":
        return []
    sources = {
        "labels": subject.source("parse", "labels.png"),
        "valid": subject.source("detect", "valid.png"),
    }
    faces = plan.config.faces
    parameters: dict[str, Any] = {"region": "subject" if subject.is_given else faces.mask_region}
    covered = None if subject.is_given else faces.covered_limit()
    filled = None if subject.is_given else faces.filled_limit()
    if filled is not None:
        parameters |= {"min_filled_share": filled, "framing": faces.crop_framing}
    if covered is not None:
        parameters["max_covered_share"] = covered
    return [plan.work(subject, SPEC, parameters, sources, ())]
