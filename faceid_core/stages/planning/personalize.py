"""Plan stage personalize: crop, mask and method of a person to train."""

from __future__ import annotations

from faceid_core.stages.plan import Plan
from faceid_core.stages.work import StageSpec, Subject, Work

SPEC = StageSpec("personalize", version=4, batch=None, keeps_checkpoints=True)


def plan_works(plan: Plan, subject: Subject) -> list[Work]:
    """Plan the training of a person.

    The photo's digest is an input because it seeds the draws. The number of slots is not in the key: results do not
    depend on it. The name prior counts by its stage key: it is made when the first worker needs it.
    """
    if subject.kind != "person":
        return []
    parameters = {
        "method": plan.method.model_dump(mode="json"),
        "seed": plan.config.personalize.seed,
        "class_word": subject.class_word,
    }
    if plan.prior is not None:
        parameters["prior"] = plan.prior.key
    sources = {
        "photo": subject.photo(),
        "crop": subject.source("detect", "crop.png"),
        "valid": subject.source("detect", "valid.png"),
        "mask": subject.source("mask", "mask.png"),
    }
    if plan.reads_sizes:
        sources["detection"] = subject.source("detect", "detection.json")
    precision = plan.config.base_model.precision
    return [plan.work(subject, SPEC, parameters, sources, ("base",), precision=precision)]
