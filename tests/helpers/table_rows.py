"""Rows that keep the contracts, for tests of the tables: a run with a few people and two pictures each."""

from datetime import UTC, date, datetime

from data_contracts import contract
from faceid_core.store import sha256_hex


def digest(*parts) -> str:
    """A SHA-256 that is the same whenever the parts are."""
    return sha256_hex(repr(parts).encode())


def person_key(number: int) -> str:
    """The identity key of the numbered person."""
    return f"{number:032x}"


def run_row(run_id: str, day: int, people: int) -> dict:
    """A row of `runs`."""
    start = datetime(2026, 11, day, 22, tzinfo=UTC)
    counts = dict.fromkeys(("cached", "rejected", "refused", "failed", "not_reached", "exit_status"), 0)
    return counts | {
        "run_id": run_id,
        "run_date": date(2026, 11, day),
        "name": f"nightly-{day}",
        "started_at": start,
        "finished_at": start,
        "seconds": 0.0,
        "config_digest": digest("config"),
        "base_model": "miniature",
        "base_digest": digest("base"),
        "method": "semantic-fidelity",
        "executor": "inline",
        "identities": people,
        "done": people,
        "faceid_version": "0.1.0",
    }


def outcome_row(run_id: str, day: int, number: int) -> dict:
    """A row of `identity_outcomes`."""
    return {
        "run_id": run_id,
        "run_date": date(2026, 11, day),
        "identity_id": f"person-{number}",
        "identity_key": person_key(number),
        "outcome": "done",
        "attempts": 1,
        "seconds": 1.5,
        "generate_key": digest("generate", number),
        "personalize_key": digest("personalize", number),
        "stage_results": [{"stage": "score-identity", "stage_key": digest("score", number)}],
    }


def image_row(day: int, number: int, seed: int) -> dict:
    """A row of `images`."""
    return {
        "generate_key": digest("generate", number),
        "prompt_id": "beach",
        "seed": seed,
        "run_date": date(2026, 11, day),
        "subject_kind": "person",
        "subject": person_key(number),
        "prompt": "a photo of V* on a beach",
        "category": "scene",
        "cell": digest("cell", number, seed),
        "width": 64,
        "height": 64,
        "sampler": "ddim",
        "steps": 20,
        "guidance_scale": 5.0,
        "base_digest": digest("base"),
    }


def metric_row(day: int, number: int, seed: int, value: float | None) -> dict:
    """A row of `image_metrics`."""
    return {
        "generate_key": digest("generate", number),
        "prompt_id": "beach",
        "seed": seed,
        "metric": "identity",
        "score_key": digest("score", number),
        "run_date": date(2026, 11, day),
        "value": value,
        "null_reason": "no_face" if value is None else None,
        "metric_version": 1,
    }


def summary_row(run_id: str, day: int, number: int) -> dict:
    """A row of `identity_summary`."""
    return {
        "run_id": run_id,
        "run_date": date(2026, 11, day),
        "subject_kind": "person",
        "subject": person_key(number),
        "identity_id": f"person-{number}",
        "identity_key": person_key(number),
        "images": 2,
        "personalize_key": digest("personalize", number),
        "generate_key": digest("generate", number),
        "identity_similarity": 0.5,
        "identity_similarity_low": 0.4,
        "identity_similarity_high": 0.6,
    }


def run(run_id: str, day: int, people: int = 2) -> dict:
    """All five tables of a run; every picture without a face on odd seeds."""
    numbers, seeds = range(people), range(2)
    rows = {
        "runs": [run_row(run_id, day, people)],
        "identity_outcomes": [outcome_row(run_id, day, number) for number in numbers],
        "images": [image_row(day, number, seed) for number in numbers for seed in seeds],
        "image_metrics": [
            metric_row(day, number, seed, None if seed % 2 else 0.25) for number in numbers for seed in seeds
        ],
        "identity_summary": [summary_row(run_id, day, number) for number in numbers],
    }
    return {name: contract(name).table(some) for name, some in rows.items()}
