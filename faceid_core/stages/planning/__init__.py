"""The planning half of the stages: what each stage computes for a subject, with its stage key; loads no model."""

from __future__ import annotations

from faceid_core.stages import name_prior
from faceid_core.stages.plan import Plan
from faceid_core.stages.planning import detect, generate, mask, parse, personalize, score
from faceid_core.stages.work import METRIC_PREFIX, StageSpec, Subject, Work

# The stages of one spec each; of `score` every metric has its own.
_OF_ONE_SPEC = {
    "detect": detect,
    "parse": parse,
    "mask": mask,
    "personalize": personalize,
    "generate": generate,
}
_MODULES = {**_OF_ONE_SPEC, "score": score}


def plan_works(plan: Plan, stage: str, subject: Subject) -> list[Work]:
    """Plan every piece of work of a stage for one subject.

    Args:
        stage: one of STAGES; 'score' is all metrics.

    Raises:
        InputMissing: an earlier stage left the subject no result.
    """
    return _MODULES[stage].plan_works(plan, subject)


def spec_of(name: str) -> StageSpec:
    """Return the spec of the stage that a call names: one of STAGES, 'score-identity' and so on, or 'prior'."""
    if name.startswith(METRIC_PREFIX):
        return score.spec_of_metric(name.removeprefix(METRIC_PREFIX))
    return name_prior.SPEC if name == name_prior.SPEC.name else _OF_ONE_SPEC[name].SPEC
