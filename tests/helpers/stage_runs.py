"""Runs single stages on given inputs, without a store or a plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from faceid_core.config import NightlyConfig
from faceid_core.progress import no_progress
from faceid_core.stages import Work
from faceid_core.stages.executing import stage_function
from faceid_core.stages.models import Models, WorkerSettings
from faceid_core.stages.plan import Plan
from faceid_core.stages.planning import plan_works, spec_of
from faceid_core.stages.work import Subject
from faceid_core.store.keys import StageCall, sha256_hex
from faceid_core.store.manifest import Manifest
from faceid_core.weights.resolve import resolve_all


def models_for_tests(*, base: Path | None = None, faces: str = "miniature", slots: int = 2) -> Models:
    """A worker's models on the CPU: the shipped faces and scorers, and a base model's folder if one is given."""
    config = NightlyConfig(
        faces={"backend": faces},
        base_model={"device": "cpu", **({"source": str(base)} if base else {})},
        personalize={"preset": "semantic-fidelity", "slots": slots},
        generate={"batch": 4},
    )
    return Models(WorkerSettings.from_config(config, resolve_all(config).digests, threads=1))


def run_stage(
    name: str, parameters: Mapping, people: Mapping[str, Mapping[str, bytes]], models: Models
) -> dict[str, dict[str, bytes]]:
    """The outputs, by name, of each person.

    Args:
        name: of the stage, `score-identity` and so on for metrics.
        parameters: of its call, shared by all.
        people: person -> input blobs by name.
        models: from `models_for_tests`.

    Raises:
        Exception: whatever ended a person's work.
    """
    works = [
        Work(
            person,
            "common",
            StageCall(
                stage=name,
                version=spec_of(name).version,
                parameters=parameters,
                precision="float32",
                inputs={key: sha256_hex(data) for key, data in blobs.items()},
                weights=models.settings.weights,
            ),
            {},
            name,
        )
        for person, blobs in people.items()
    ]
    found = {}
    for index, outputs, _ in stage_function(name)(works, list(people.values()), models, no_progress):
        if isinstance(outputs, Exception):
            raise outputs
        found[works[index].subject] = {key: output.data for key, output in outputs.items()}
    return found


def score_calls_of(plan: Plan) -> dict[str, StageCall]:
    """The stage calls of all metrics for one person whose pictures are drawn."""
    subject = Subject("person", "p", "identities/p", "person")
    for stage, output in (("generate", "pictures.parquet"), ("detect", "crop.png")):
        row = {"name": output, "digest": "a" * 64, "size": 1, "media_type": "image/png"}
        subject.manifests[stage] = Manifest(stage, "b" * 64, {"outputs": [row]}, {})
    return {work.call.stage: work.call for work in plan_works(plan, "score", subject)}
