"""Plan stage parse: the aligned crop, or the subject that the user pointed at."""

from __future__ import annotations

from faceid_core.stages.plan import Plan
from faceid_core.stages.work import StageSpec, Subject, Work

SPEC = StageSpec("parse", version=1, batch=64)


def plan_works(plan: Plan, subject: Subject) -> list[Work]:
    """Plan the parse of a person's crop; only people have one, because the parse serves the training mask."""
    if subject.kind != "person":
        return []
    if subject.is_given:
        sources = {"subject": subject.source("detect", "subject.png")}
        return [plan.work(subject, SPEC, {"backend": "given"}, sources, ())]
    sources = {
        "crop": subject.source("detect", "crop.png"),
        "detection": subject.source("detect", "detection.json"),
    }
    return [plan.work(subject, SPEC, {"backend": plan.config.faces.backend}, sources, ("face_parser",))]
