"""The stage `prior`: the name prior of a base model, which all people of a run learn from; made once and kept."""

from __future__ import annotations

from collections.abc import Sequence

from faceid_core.config.method import Method
from faceid_core.stages.work import COMMON, StageSpec, Work
from faceid_core.store.keys import StageCall

SPEC = StageSpec("prior", version=3, batch=1)
OUTPUT = "prior.safetensors"
STEPS = 12  # of each portrait; few suffice for a likeness (docs/tuning.md)
SUBJECT = "known-names"  # of the work, for progress and messages


def prior_call(names: Sequence[str], method: Method, base_digest: str, precision: str) -> StageCall:
    """The call that makes the prior: it depends on the base model and on what is drawn of the names."""
    return StageCall(
        stage=SPEC.name,
        version=SPEC.version,
        parameters={
            "names": list(names),
            "template": method.template,
            "portraits": method.prior_portraits,
            "steps": STEPS,
            "components": method.basis_size,
        },
        precision=precision,
        inputs={},
        weights={"base": base_digest},
    )


def prior_work(call: StageCall) -> Work:
    """The work of a worker that needs the prior; another worker that makes it meanwhile is waited for."""
    return Work(SUBJECT, COMMON, call, {}, SPEC.name, patient=True)
