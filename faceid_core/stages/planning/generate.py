"""Plan stage generate: the prompt grid of a subject, with the person's tokens or the text that stands for V*."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faceid_core.stages.plan import Plan
from faceid_core.stages.work import Reuse, StageSpec, Subject, Work
from faceid_core.store.keys import StageCall

SHARD = "pictures.parquet"


def _shares_pictures(earlier: Mapping[str, Any], call: StageCall) -> bool:
    """Whether a shard made for `earlier` (a preimage) can hold pictures of this call: same base, same subject."""
    same = earlier["weights"].get("base") == call.weights["base"]
    return same and (earlier["inputs"].get("tokens"), earlier["parameters"].get("text")) == (
        call.inputs.get("tokens"),
        call.parameters["text"],
    )


SPEC = StageSpec("generate", version=2, batch=None, reuse=Reuse(SHARD, _shares_pictures))


def plan_works(plan: Plan, subject: Subject) -> list[Work]:
    """Plan the pictures of any subject: people by their tokens, the class word and named people by their text."""
    config = plan.config
    parameters = {
        "prompts": [[p.id, p.text, p.category] for p in plan.grid.prompts],
        "seeds": config.generate.seeds,
        "sampler": config.generate.sampler,
        "steps": config.generate.steps,
        "guidance_scale": config.generate.guidance_scale,
        "text": subject.text,
    }
    # Absent by default, so that pictures drawn before there was a choice keep their keys.
    if use := config.identity_use(subject.kind == "person").fields():
        parameters["use"] = use
    if size := config.generate.size(plan.base.resolution):
        parameters["size"] = list(size)
    sources = {} if subject.text else {"tokens": subject.source("personalize", "tokens.safetensors")}
    precision = config.base_model.precision
    return [plan.work(subject, SPEC, parameters, sources, ("base",), precision=precision)]
