"""Drives a study: an ordinary run for every variant that the store does not hold whole, its rows kept at once."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from faceid_core.config import NightlyConfig, changed
from faceid_core.errors import ConfigurationError, DamagedInput
from faceid_core.evaluate.metrics import METRICS
from faceid_core.outcomes import UNLEARNABLE, Outcome
from faceid_core.publish.scores import collect_scores
from faceid_core.run.lookup import dry_run
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.run.state import Run
from faceid_core.stages import STAGES
from faceid_core.stages.files import read_json
from faceid_core.stages.planning import spec_of
from faceid_core.stages.work import Subject
from faceid_core.store import StageCache
from faceid_core.store.keys import canonical_json, sha256_hex
from faceid_core.weights.describe import MINIATURE

from . import definitions
from .page import write_page
from .rows import (
    CEILING,
    FIGURES,
    PERSON,
    merge_rows,
    read_rows,
    refuse_record,
    require_same_settings,
    study_rows,
    unlearnable_row,
    write_rows,
)
from .several import FIGURES as PAIR_FIGURES
from .several import pair_rows, write_pairs_page
from .study import Condition, Study, Variant
from .tuned import ByCondition, tuned_settings

StartRun = Callable[[NightlyConfig], Run]


@dataclass(frozen=True)
class Trial:
    """A variant in one condition: what one run measures."""

    condition: Condition
    variant: Variant

    @property
    def label(self) -> str:
        """The variant's label, with the condition's title where the study has several."""
        return ", ".join(filter(None, (self.variant.label, self.condition.title)))

    @property
    def key(self) -> tuple[str, str]:
        """Condition's name and variant's label, as they stand in the rows."""
        return self.condition.name, self.variant.label


@dataclass(frozen=True)
class StudyResult:
    """What a session of a study measured.

    Args:
        files: the CSV, the page and the figure.
        computed: labels of the trials that were run.
        cached: labels of those whose results the store held.
        missing: labels asked for that the store does not hold (with `table_only`).
        absent: by label, the subjects without figures (identities by id, floor, ceiling), with the reason.
    """

    files: tuple[Path, ...]
    computed: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    absent: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def study_config(study: Study, config: NightlyConfig, *, people: int, seeds: int) -> NightlyConfig:
    """The configuration that all variants share: the study's people and seeds.

    Raises:
        ConfigurationError: the scorers are not of the kind that the study needs, or a metric is missing.
    """
    selecting = config.score.scorers in definitions.SELECTION_SCORERS
    if study.selects != selecting:
        wanted = " or ".join(definitions.SELECTION_SCORERS) if study.selects else "scorers that report"
        raise ConfigurationError(
            f"study {study.name} {'chooses settings' if study.selects else 'reports'} and must not ask "
            f"score.scorers {config.score.scorers!r}; set it to {wanted}"
        )
    if config.base_model.source != MINIATURE:
        raise ConfigurationError(
            f"study {study.name} compares people with those whom the miniature was taught by name, and "
            f"base_model.source is {config.base_model.source!r}, which knows no named people; compare its "
            "settings by runs of their own"
        )
    lacking = {"identity", "concepts"} - set(config.score.metrics)
    if lacking or not config.score.named_people:
        what = f"score.metrics with {', '.join(sorted(lacking))}" if lacking else "score.named_people above 0"
        raise ConfigurationError(f"study {study.name} needs {what}: balance is a fraction of the ceiling's")
    if config.personalize.method.template is not None and any(each.template for each in study.conditions):
        raise ConfigurationError(
            f"study {study.name} trains with the prompts of its conditions; leave personalize.method.template out"
        )
    shared = {"identities": study.identities(people), "generate.seeds": seeds, "run.only": ()}
    if "copying" not in config.score.metrics:  # whose other pictures only a study's people have
        shared["score.metrics"] = (*config.score.metrics, "copying")
    return changed(config, shared, source=f"study {study.name}")


def trial_config(study: Study, trial: Trial, shared: NightlyConfig, tuned: ByCondition) -> NightlyConfig:
    """The run of one variant in one condition; its name, and so its run id, says which."""
    condition, variant = trial.condition, trial.variant
    words = filter(None, ("study", study.name, condition.name, variant.label))
    slug = re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")[:63]
    settings = {**variant.settings, **tuned_settings(variant, condition, tuned), **condition.settings}
    return changed(shared, {**settings, "name": slug, "gate.promote": "never"}, source=f"variant {trial.label!r}")


def run_study(
    study: Study,
    config: NightlyConfig,
    *,
    people: int,
    seeds: int,
    names: Sequence[str] = (),
    conditions: Sequence[str] = (),
    tuned: ByCondition = MappingProxyType({}),
    out: Path,
    start_run: StartRun,
    print_line: Callable[[str], None],
    table_only: bool = False,
    fresh: bool = False,
) -> StudyResult:
    """Measure variants of a study and write its CSV, page and figure after each.

    Args:
        study: what is asked.
        config: the settings that variants share; people and seeds are replaced.
        people, seeds: how many.
        names: labels or groups of the variants to measure now; empty means all.
        conditions: names of the conditions to measure now; empty means all.
        tuned: settings that replace the presets' own in a condition.
        out: folder of the study's files; rows of other variants in it are kept.
        start_run: runs a variant and returns its run with every outcome report closed.
        print_line: called with each line about the progress of the study.
        table_only: compute nothing; take what the store holds.
        fresh: leave earlier rows out instead of refusing those measured otherwise.

    Raises:
        ConfigurationError: the study cannot be run so, or earlier rows were measured otherwise.
    """
    shared = study_config(study, config, people=people, seeds=seeds)
    variants = study.select_variants(names)
    chosen = [Trial(each, variant) for each in study.select_conditions(conditions) for variant in variants]
    runs = {trial.key: _cached_run(trial_config(study, trial, shared, tuned)) for trial in chosen}
    settings = settings_digest(next(iter(runs.values()))[0], shared)
    every = [Trial(each, variant) for each in study.conditions for variant in study.variants]
    digests = {t.key: variant_digest(t.variant, trial_config(study, t, shared, tuned)) for t in every}
    table = out / f"{study.name}.csv"
    refuse_record(table)
    figures = PAIR_FIGURES if study.of_pairs else FIGURES
    frame = read_rows(table, figures)
    frame = frame.iloc[:0] if fresh else frame
    require_same_settings(frame, settings, digests, path=table)

    waiting = [trial.label for trial in chosen if not runs[trial.key][1]]
    print_line(
        f"study {study.name}: {len(chosen)} variants, {len(chosen) - len(waiting)} of them in the store"
    )
    computed: list[str] = []
    absent: dict[str, dict[str, str]] = {}
    files: tuple[Path, ...] = ()
    clock = _TimeLeft(len(waiting))
    for number, trial in enumerate(chosen, start=1):
        run, whole = runs.pop(trial.key)
        if not whole and table_only:
            continue
        print_line(f"variant {number} of {len(chosen)}: {trial.label}{'' if whole else clock.text()}")
        if not whole:
            with clock:
                run = start_run(trial_config(study, trial, shared, tuned))
            computed.append(trial.label)
        missing = _without_figures(run)
        if missing:
            absent[trial.label] = missing
            print_line(f"  without figures: {', '.join(f'{who} ({why})' for who, why in missing.items())}")
        if study.of_pairs and whole and (table_only or trial.variant.label in set(frame.variant)):
            continue  # its rows are not in the store: they are drawn once, and kept in the table
        if study.of_pairs:
            rows = pair_rows(trial.variant.label, run, print_line, with_ceiling=CEILING not in set(frame.kind))
        else:
            rows = _rows(trial, run)
        rows = [
            {**row, "settings_digest": settings, "variant_digest": digests[trial.key] if row["variant"] else ""}
            for row in rows
        ]
        frame = merge_rows(frame, rows, study.labels, [each.name for each in study.conditions], figures)
        write_rows(table, frame)
        files = (table, *_pages(study, frame, shared, out, tuned))
    if not files and len(frame):
        files = (table, *_pages(study, frame, shared, out, tuned))
    return StudyResult(
        files=files,
        computed=tuple(computed),
        cached=tuple(trial.label for trial in chosen if trial.label not in waiting),
        missing=tuple(waiting) if table_only else (),
        absent=absent,
    )


def _pages(
    study: Study, frame: pd.DataFrame, shared: NightlyConfig, out: Path, tuned: ByCondition
) -> Sequence[Path]:
    if study.of_pairs:
        return (write_pairs_page(study, frame, shared, out),)
    return write_page(study, frame, shared, out, tuned)


class _TimeLeft:
    """Times the variants that are computed, and expects the same of those that are left."""

    def __init__(self, variants: int):
        self._left, self._seconds = variants, []

    def __enter__(self):
        self._began = time.monotonic()

    def __exit__(self, *_):
        self._seconds.append(time.monotonic() - self._began)
        self._left -= 1

    def text(self) -> str:
        if not self._seconds:
            return f", {self._left} to compute"
        minutes = self._left * sum(self._seconds) / len(self._seconds) / 60
        return f", {self._left} to compute, about {minutes:.0f} minutes left"


def _cached_run(config: NightlyConfig) -> tuple[Run, bool]:
    """The dry run of a variant as far as the cache reaches, and whether it reaches to the end."""
    run = open_run(config, LogReporter(), dry_run=True)
    if any(stage.misses for stage in dry_run(run)):
        return run, False
    run.finish()
    return run, True


def _without_figures(run: Run) -> dict[str, str]:
    """The subjects without figures, and why: identities, floor and ceiling."""
    fine = (Outcome.DONE, Outcome.CACHED)
    people = {
        outcome_report.identity_id: outcome_report.reason or str(outcome_report.outcome)
        for outcome_report in run.outcome_reports.values()
        if outcome_report.outcome not in fine
    }
    return people | run.failures_common


def _rows(trial: Trial, run: Run) -> list[dict]:
    condition, variant = trial.key
    _, summary = collect_scores(run)
    origins = {}
    for subject in run.subjects.values():
        drawn = subject.manifests.get("generate")
        if subject.kind == PERSON and drawn is not None:
            origins[str(subject.identity_id)] = {
                "device": drawn.provenance.get("device", ""),
                "run_id": drawn.provenance.get("run_id", ""),
                **_training_facts(run, subject),
            }
    rows = study_rows(variant, summary, origins, condition=condition)
    for subject in run.subjects.values():
        outcome_report = run.outcome_reports.get(subject.name) if subject.kind == PERSON else None
        if (
            outcome_report
            and outcome_report.outcome is Outcome.FAILED
            and outcome_report.reason in UNLEARNABLE
        ):
            origin = {"run_id": run.run_id, **_training_facts(run, subject)}
            rows.append(unlearnable_row(variant, outcome_report.identity_id, origin, condition=condition))
    return rows


def _training_facts(run: Run, subject: Subject) -> dict[str, int]:
    """How long the training of an identity's tokens was.

    Returns:
        samples: noised copies of the photo; a row of the curve is a step, also if it ended early.
        restarted: 1 if a first attempt diverged and the second, at a lower rate, made the tokens, else 0.
        Nothing if that cannot be read.
    """
    trained, cache = subject.manifests.get("personalize"), StageCache(run.store, subject.scope)
    if trained is None:
        return {}
    try:
        curve = read_json(cache.read(trained, "curve.json"))
        training = read_json(cache.read(trained, "training.json"))
    except DamagedInput:  # the figures do not rest on it
        return {}
    samples = len(curve) * run.plan.method.samples_per_step
    return {"samples": samples, "restarted": int("restarted" in training)}


def variant_digest(variant: Variant, config: NightlyConfig) -> str:
    """What the variant decides: the whole method, and what it changes elsewhere."""
    elsewhere = {k: v for k, v in variant.settings.items() if not k.startswith("personalize.")}
    method = config.method().model_dump(mode="json")
    return _digest({"method": method, "settings": elsewhere})


def settings_digest(run: Run, shared: NightlyConfig) -> str:
    """What every variant of a session shares and a figure depends on, as 'people=… photos=… models=…' and so on.

    In parts, so that a refusal can say which of them differs.
    """
    sections = shared.model_dump(mode="json", include={"faces", "base_model", "score"})
    sections["generate"] = shared.generate.result_values()
    sections["base_model"].pop("device")
    for name in ("grid", "batch"):
        sections["generate"].pop(name)
    subjects = [[s.identity_id or s.name, s.photo_digest] for s in run.subjects.values()]
    versions = {stage: spec_of(stage).version for stage in STAGES if stage != "score"}
    versions |= {metric: METRICS[metric].version for metric in shared.score.metrics}
    parts = {
        "people": sorted(subjects, key=lambda pair: pair[0]),
        "photos": sections["faces"],
        "models": [sections["base_model"], dict(run.plan.weights)],
        "training_seed": shared.personalize.seed,
        "prompts": run.plan.grid.digest,
        "pictures": sections["generate"],
        "scoring": sections["score"],
        "versions": versions,
    }
    return " ".join(f"{name}={_digest(part)}" for name, part in parts.items())


def _digest(value: Any) -> str:
    return sha256_hex(canonical_json(value))[:12]
