"""Nights as tables, made column by column: as many people, images and metric rows as wanted."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from data_contracts import contract

METRICS = (
    "identity", "detection", "concepts", "concepts:scene", "image_text", "attention", "leakage", "leakage:clothes",
    "leakage:background", "leakage:framing",
)  # fmt: skip
_FLOORS = ("identity",)
_START = dt.datetime(2026, 1, 1, 22, tzinfo=dt.UTC)
_ZERO_OR_ONE = {
    "detection",
    "concepts",
    "concepts:scene",
    "leakage:clothes",
    "leakage:background",
    "leakage:framing",
}


def digest(*parts: Any) -> str:
    """A SHA-256 that is the same whenever the parts are."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def night(
    number: int,
    people: int = 1000,
    *,
    prompts: int = 40,
    seeds: int = 2,
    metrics: Sequence[str] = METRICS,
    named: int = 4,
) -> dict[str, pa.Table]:
    """All tables of one night in which every person was learned anew.

    With the defaults `image_metrics` has 1000 people x 40 prompts x 2 seeds x 11 rows, the floor's among them.
    """
    rng = np.random.default_rng(number)
    run_id, when = run_name(number), _START + dt.timedelta(days=number)
    images = prompts * seeds
    keys = [f"{each:032x}" for each in range(people)]
    ids = [f"person-{each:04d}" for each in range(people)]
    generate = np.array([digest("generate", number, each) for each in range(people)])
    stages = [*(f"score-{m}" for m in metrics if ":" not in m), *(f"floor_score-{m}" for m in _FLOORS)]
    score_keys = {
        stage: np.array([digest(stage, number, each) for each in range(people)]) for stage in stages
    }
    rejected = {people - 1} if people > 1 else set()

    def outcome(each: int) -> dict:
        row = {
            "run_id": run_id,
            "run_date": when.date(),
            "identity_id": ids[each],
            "identity_key": keys[each],
        }
        photo = digest("photo", each, number // 2 if each % 5 == 0 else 0)
        row |= {"photo_digest": photo, "attempts": 1, "seconds": 9.0 + each % 7}
        if each in rejected:
            return row | {"outcome": "rejected", "stage": "detect", "reason": "no_face", "message": "no face"}
        results = [
            {
                "stage": stage, "stage_key": score_keys[stage][each], "version": 1, "computed": (number + each) % 3 > 0,
                "seconds": 0.5 + each % 3, "host": "node-1", "device": "cpu",
            }
            for stage in stages
        ]  # fmt: skip
        return row | {
            "outcome": "done",
            "personalize_key": digest("tokens", number, each),
            "generate_key": generate[each],
            "stage_results": results,
        }

    def summary(each: int) -> dict:
        accuracy = {
            f"{name}_accuracy": float(rng.random()) for name in ("scene", "attribute", "action", "clothing")
        }
        return accuracy | {
            "run_id": run_id, "run_date": when.date(), "subject_kind": "person", "subject": keys[each],
            "identity_id": ids[each], "identity_key": keys[each], "images": images,
            "personalize_key": digest("tokens", number, each), "generate_key": generate[each],
            "normalized_identity": float(rng.random()), "identity_similarity": float(rng.random()),
            "concept_accuracy": float(rng.random()),
        }  # fmt: skip

    ceiling = [
        {
            "run_id": run_id, "run_date": when.date(), "subject_kind": "named", "subject": f"name-{each}",
            "images": images, "identity_similarity": 0.9 + each / 100,
        }
        for each in range(named)
    ]  # fmt: skip
    there = [each for each in range(people) if each not in rejected]
    run = {
        "run_id": run_id, "run_date": when.date(), "name": "nightly", "started_at": when, "finished_at": when,
        "seconds": 0.0, "config_digest": digest("config"), "base_model": "miniature", "base_digest": digest("base"),
        "method": "semantic-fidelity", "executor": "inline", "identities": people, "done": len(there), "cached": 0,
        "rejected": len(rejected), "refused": 0, "failed": 0, "not_reached": 0, "exit_status": 0,
        "faceid_version": "0.2.0", "code_revision": "142f39e0aa11", "stage_versions": [{"stage": "mask", "version": 1}],
    }  # fmt: skip
    prompt = np.array([f"prompt-{each:02d}" for each in range(prompts) for _ in range(seeds)])
    seed = np.tile(np.arange(seeds), prompts)
    people_there = generate[there]
    drawn = {
        "generate_key": np.repeat(people_there, images),
        "prompt_id": np.tile(prompt, len(there)),
        "seed": np.tile(seed, len(there)),
        "run_date": when.date(),
        "subject_kind": "person",
        "subject": np.repeat(np.array(keys)[there], images),
        "prompt": "a photo of V* on the beach",
        "category": np.tile(np.where(np.arange(images) % 2, "scene", "clothing"), len(there)),
        "cell": [digest("cell", number, each) for each in range(images * len(there))],
        "width": 64,
        "height": 64,
        "sampler": "ddim",
        "steps": 20,
        "guidance_scale": 5.0,
        "base_digest": digest("base"),
    }
    rows = [*((m, f"score-{m.partition(':')[0]}", True) for m in metrics)]
    rows += [(m, f"floor_score-{m}", False) for m in _FLOORS]
    per_person = images * len(rows)
    value = rng.random((len(there), len(rows), images)).round(6)
    for at, (metric, _, own) in enumerate(rows):
        if metric in _ZERO_OR_ONE:
            value[:, at] = value[:, at] > 0.2
        if metric == "identity" and not own:
            value[:, at] *= 0.3
    missing = (value < 0.05) & np.array([m == "identity" for m, _, _ in rows])[None, :, None]
    flat, gone = value.reshape(-1), missing.reshape(-1)
    own_keys = np.stack([score_keys[stage][there] for _, stage, _ in rows], axis=1)  # [people, rows]
    makers = np.where(
        [own for _, _, own in rows], people_there[:, None], digest("floor", number)
    )  # [people, rows]
    seen = np.array(["beach", "forest", "street"])[rng.integers(0, 3, len(flat))]
    concept = np.tile(np.repeat([m == "concepts:scene" for m, _, _ in rows], images), len(there))
    measured = {
        "generate_key": np.repeat(makers.reshape(-1), images),
        "prompt_id": np.tile(prompt, len(there) * len(rows)),
        "seed": np.tile(seed, len(there) * len(rows)),
        "metric": np.tile(np.repeat([m for m, _, _ in rows], images), len(there)),
        "score_key": np.repeat(own_keys.reshape(-1), images),
        "run_date": when.date(),
        "value": pa.array(flat, mask=gone),
        "null_reason": pa.array(np.full(len(flat), "no_face"), mask=~gone),
        "detail": pa.array(np.where(concept, seen, "no face"), mask=~(concept | gone)),
        "metric_version": 1,
        "model": "miniature:recognizer",
        "model_digest": digest("models"),
    }
    assert len(flat) == per_person * len(there)
    return {
        "runs": contract("runs").table([run]),
        "identity_outcomes": contract("identity_outcomes").table(map(outcome, range(people))),
        "identity_summary": contract("identity_summary").table([*map(summary, there), *ceiling]),
        "images": _table("images", drawn, images * len(there)),
        "image_metrics": _table("image_metrics", measured, len(flat)),
    }


def cached_night(before: dict[str, pa.Table], number: int) -> dict[str, pa.Table]:
    """The rows of a night in which every result of the night before was found again."""
    (run,) = before["runs"].to_pylist()
    when = _START + dt.timedelta(days=number)
    own = {"run_id": run_name(number), "run_date": when.date()}
    found = {"runs": contract("runs").table([run | own | {"started_at": when, "finished_at": when}])}
    for name in ("identity_outcomes", "identity_summary"):
        rows = before[name]
        for column, value in own.items():
            at = rows.schema.get_field_index(column)
            field = rows.schema.field(at)
            rows = rows.set_column(at, field, pa.repeat(pa.scalar(value, field.type), rows.num_rows))
        found[name] = rows
    return found


def run_name(number: int) -> str:
    """The id of a night's run."""
    return f"night-{number:04d}"


def _table(name: str, columns: dict[str, Any], rows: int) -> pa.Table:
    agreed = contract(name)
    arrays = []
    for field in agreed.schema:
        values = columns[field.name]
        if isinstance(values, str | int | float | dt.date):
            arrays.append(pa.repeat(pa.scalar(values, field.type), rows))
        else:
            arrays.append(
                pa.array(values, field.type) if not isinstance(values, pa.Array) else values.cast(field.type)
            )
    return pa.Table.from_arrays(arrays, schema=agreed.schema)
