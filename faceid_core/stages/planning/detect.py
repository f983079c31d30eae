"""Plan stage detect: the photo, or the subject that the user pointed at in it."""

from __future__ import annotations

from faceid_core.stages.plan import Plan
from faceid_core.stages.work import StageSpec, Subject, Work

SPEC = StageSpec("detect", version=5, batch=64)


def plan_works(plan: Plan, subject: Subject) -> list[Work]:
    """Plan the photo's detection; people and named people have a photo, the class word has none."""
    if subject.photo_digest is None:
        return []
    faces = plan.config.faces
    parameters = {
        "backend": faces.backend,
        "crop_pixels": plan.crop_pixels,
        "face_box": list(subject.face_box) if subject.face_box else None,
        **faces.limits(),
    }
    sources = {"photo": subject.photo()}
    roles = () if subject.is_given else ("face_detector",)
    if subject.is_given:
        if subject.subject_box:
            parameters["subject_box"] = list(subject.subject_box)
        if subject.subject_mask_digest:
            sources["subject_mask"] = subject.subject_mask()
            parameters["mask"] = "opaque"  # since version 1 once took transparent ones
    elif faces.crop_framing != "close_up":
        parameters["framing"] = faces.crop_framing
    return [plan.work(subject, SPEC, parameters, sources, roles)]
