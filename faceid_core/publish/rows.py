"""The rows that a run adds to each table, as pyarrow tables with the columns of their contracts."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import pyarrow as pa

from data_contracts import contract
from faceid_core import __version__
from faceid_core.evaluate.cells import DrawSettings, grid_cells
from faceid_core.evaluate.metric_rows import MetricRows
from faceid_core.evaluate.metrics import METRICS
from faceid_core.evaluate.null_reasons import null_reason
from faceid_core.evaluate.summary import SubjectScores
from faceid_core.outcomes import OutcomeReport, tally
from faceid_core.run.admission import ERASED
from faceid_core.run.executor import Usage
from faceid_core.run.records import config_digest, manifest_digest
from faceid_core.run.state import Run
from faceid_core.stages.planning import spec_of
from faceid_core.stages.planning.generate import SPEC as GENERATE
from faceid_core.stages.work import STAGES, Subject, metric_result
from faceid_core.store import Manifest
from faceid_core.store.keys import canonical_json, sha256_hex
from faceid_core.tables import Rows
from faceid_core.tables.columns import renamed
from faceid_core.version import source_revision
from faceid_core.weights.roles import ROLES, photograph_roles

Found = Sequence[tuple[Subject, SubjectScores]]
# Columns of some rows of one table; what is no list stands in each of the rows.
Columns = Mapping[str, Any]

MOST_ROWS = 500_000  # of a table that are in memory at once: some 400 MB while they are written


def result_tables(run: Run, found: Found, summary: list[dict]) -> dict[str, Rows]:
    """The tables `images`, `image_metrics` and `identity_summary`; the first two in portions, made when they are read."""
    return {
        "images": lambda: _portions("images", _images(run, found)),
        "image_metrics": lambda: _portions("image_metrics", _metrics(run, found)),
        "identity_summary": contract("identity_summary").table(map(renamed, summary)),
    }


def outcome_tables(run: Run, *, exit_status: int) -> dict[str, pa.Table]:
    """The tables `runs` and `identity_outcomes`, which need no result of a stage."""
    return {
        "runs": contract("runs").table([_run_row(run, exit_status)]),
        "identity_outcomes": contract("identity_outcomes").table(_outcome_rows(run)),
    }


def _portions(name: str, results: Iterable[tuple[int, Columns]]) -> Iterator[pa.Table]:
    """The rows of many results as tables of at most `MOST_ROWS` rows; those of one result stay together.

    Args:
        name: of the table.
        results: of each result, how many rows it has, and their columns.
    """
    columns, count = defaultdict(list), 0
    for rows, values_of in results:
        if count and count + rows > MOST_ROWS:
            yield contract(name).table_of_columns(columns)
            columns, count = defaultdict(list), 0
        for column, values in values_of.items():
            columns[column].extend(values if isinstance(values, list) else repeat(values, rows))
        count += rows
    yield contract(name).table_of_columns(columns)  # an empty one, too, so that the table is there


def _run_row(run: Run, exit_status: int) -> dict:
    # The clock may be set during the run, so the end is the start and the seconds since.
    seconds = round(run.seconds(), 3)
    config = run.config
    return {
        "run_id": run.run_id,
        "run_date": run.run_date,
        "name": config.name,
        "started_at": run.started_at,
        "finished_at": run.started_at + dt.timedelta(seconds=seconds),
        "seconds": seconds,
        "config_digest": config_digest(run),
        "manifest_digest": manifest_digest(run),
        "base_model": config.base_model.source,
        "base_digest": run.plan.weights["base"],
        "method": config.preset_in_use(),
        "executor": config.execution.executor,
        "identities": len(run.outcome_reports),
        **tally(run.outcome_reports.values()),
        "subset": bool(config.run.only),
        **_worker_figures(run.usage),
        "exit_status": exit_status,
        "faceid_version": __version__,
        "code_revision": source_revision(),
        "stage_versions": [
            *({"stage": stage, "version": spec_of(stage).version} for stage in STAGES if stage != "score"),
            *({"stage": f"score-{name}", "version": METRICS[name].version} for name in config.score.metrics),
        ],
    }


def _worker_figures(usage: Usage) -> dict:
    """Empty where everything was cached, so that no worker started."""
    if not usage.idle:
        return {}
    return {
        "workers": len(usage.idle),
        "workers_replaced": usage.replaced,
        "worker_idle_mean": sum(usage.idle) / len(usage.idle),
        "worker_idle_most": max(usage.idle),
    }


def _outcome_rows(run: Run) -> Iterable[dict]:
    for outcome_report in run.outcome_reports.values():
        # An erased identity keeps its outcome, but its id, its photo's digest and its results' keys must not come back
        # into the tables with every run.
        is_erased = outcome_report.reason == ERASED
        keys = {} if is_erased else outcome_report.stage_keys
        yield {
            "run_id": run.run_id,
            "run_date": run.run_date,
            "identity_id": outcome_report.identity_key if is_erased else outcome_report.identity_id,
            "identity_key": outcome_report.identity_key,
            "outcome": str(outcome_report.outcome),
            "stage": outcome_report.stage,
            "reason": outcome_report.reason,
            "message": outcome_report.sentence,
            "value": outcome_report.value,
            "threshold": outcome_report.threshold,
            "attempts": outcome_report.attempts,
            "seconds": round(outcome_report.seconds, 3),
            **{f"{stage}_key": keys.get(stage) for stage in STAGES if stage != "score"},
            "photo_digest": None if is_erased else run.subjects[outcome_report.identity_key].photo_digest,
            "stage_results": [] if is_erased else _stage_results(run, outcome_report),
            "weak": None if is_erased else outcome_report.weak,
            "same_photo": None if is_erased else outcome_report.same_photo,
        }


def _stage_results(run: Run, outcome_report: OutcomeReport) -> list[dict]:
    """What an identity's outcome rests on, and where and when each part of it was computed."""
    manifests = run.subjects[outcome_report.identity_key].manifests
    found = []
    for result, key in sorted(outcome_report.stage_keys.items()):
        row: dict = {"stage": result, "stage_key": key}
        manifest = manifests.get(result)
        if manifest is not None and manifest.stage_key == key:
            provenance = manifest.provenance
            row |= {
                "version": manifest.content["preimage"]["version"],
                "computed": provenance.get("run_id") == run.run_id,
                "seconds": provenance.get("seconds"),
                "host": _text(provenance.get("host")),
                "device": _text(provenance.get("device")),
            }
        found.append(row)
    return found


def _text(value: object) -> str | None:
    """A provenance's word, which any writer of the store may have put there."""
    return value if isinstance(value, str) else None


def _images(run: Run, found: Found) -> Iterator[tuple[int, Columns]]:
    config, side, written = run.config.generate, run.plan.base.resolution, set()
    height, width = config.size(side) or (side, side)
    for subject, scores in found:
        # Two ids with one photo share stage keys, and so pictures and scores: one row serves both.
        if scores.generate_key in written:
            continue
        written.add(scores.generate_key)
        settings = DrawSettings(
            base=run.plan.weights["base"],
            sampler=config.sampler,
            steps=config.steps,
            guidance_scale=config.guidance_scale,
            precision=run.config.base_model.precision,
            version=GENERATE.version,
            use=run.config.identity_use(subject.kind == "person"),
            size=config.size(side),
        )
        drawn_from = subject.text or subject.manifests["personalize"].outputs["tokens.safetensors"].digest
        cells = list(grid_cells(run.plan.grid, range(config.seeds), settings, subject=drawn_from))
        yield (
            len(cells),
            {
                "generate_key": scores.generate_key,
                "prompt_id": [cell.prompt.id for cell in cells],
                "seed": [cell.seed for cell in cells],
                "run_date": run.run_date,
                "subject_kind": subject.kind,
                "subject": scores.subject,
                "prompt": [cell.prompt.text for cell in cells],
                "category": [cell.prompt.category for cell in cells],
                "cell": [cell.digest for cell in cells],
                "width": width,
                "height": height,
                "sampler": config.sampler,
                "steps": config.steps,
                "guidance_scale": config.guidance_scale,
                "base_digest": settings.base,
            },
        )


def _metrics(run: Run, found: Found) -> Iterator[tuple[int, Columns]]:
    floor_key = {word: manifest.stage_key for word, manifest in run.plan.floors.items()}
    written: set[tuple[str, str]] = set()
    for subject, scores in found:
        generate_key = str(scores.generate_key)
        yield from _scored(run, subject, scores.scores, False, generate_key, written)
        if scores.floor:
            yield from _scored(run, subject, scores.floor, True, floor_key[subject.class_word], written)


def _scored(
    run: Run,
    subject: Subject,
    rows: MetricRows,
    is_floor: bool,
    generate_key: str,
    written: set[tuple[str, str]],
) -> Iterator[tuple[int, Columns]]:
    """The rows of each metric over one subject's pictures.

    Args:
        is_floor: Whether the pictures are the class word's, scored against the person's photo.
        written: Keys of what was given before; those of what is given here are added.
    """
    parts_of: dict[str, list[str]] = defaultdict(list)
    for name in rows.metrics:
        parts_of[name.partition(":")[0]].append(name)
    for metric, parts in parts_of.items():
        manifest = subject.manifests[metric_result(metric, floor=is_floor)]
        if (generate_key, manifest.stage_key) in written:
            continue  # as in `_images`
        written.add((generate_key, manifest.stage_key))
        own = rows.columns(*parts)
        model, weights = scored_by(run, metric, manifest)
        yield (
            len(own["value"]),
            {
                **own,
                "generate_key": generate_key,
                "score_key": manifest.stage_key,
                "run_date": run.run_date,
                "null_reason": list(map(null_reason, own["value"], own["detail"])),
                "detail": [detail or None for detail in own["detail"]],
                "metric_version": METRICS[metric].version,
                "model": model,
                "model_digest": sha256_hex(canonical_json(weights)),
            },
        )


def scored_by(run: Run, metric: str, manifest: Manifest) -> tuple[str, list[str]]:
    """The models that measured a metric, by name, and their digests as in the stage key of the scores."""
    scorers, roles, titles = run.config.score.scorers, ROLES[metric], run.plan.scorer_titles
    digests = manifest.content["preimage"]["weights"]
    if titles:
        used = photograph_roles(metric)
        return f"{scorers}:{'+'.join(titles[role] for role in used)}", [digests[role] for role in used]
    backend = run.config.faces.backend
    if METRICS[metric].detector_of_photos and digests["detector"] != run.plan.weights["detector"]:
        return f"{backend}:{'+'.join(roles)}", [digests[role] for role in roles]
    return f"{scorers}:{'+'.join(roles)}", [digests[role] for role in roles]
