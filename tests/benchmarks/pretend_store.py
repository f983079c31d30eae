"""A store in which people have every result, made without a model: its manifests alone, with scores that can be read.

What a lookup, a plan and a publication read is there: a manifest for each stage, metric and floor, with the scores' rows
in it (`Output.inline`). Blobs are not, so that a hundred thousand people take a fourteenth of the files; what reads them
(a stage, a person's page) finds nothing.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from faceid_core.config import NightlyConfig, load_config
from faceid_core.evaluate.leakage import PARTS
from faceid_core.evaluate.metric_rows import MetricRow, write_scores
from faceid_core.stages.planning.score import SCORES
from faceid_core.stages.work import METRIC_PREFIX, Work
from faceid_core.store import ObjectStore, Output
from tests.helpers.pretend_night import made_up, pretend_night, write_manifest

_VARIANTS = 16  # of a metric's scores; people share them, as no reader minds
# The rows that a metric has for a picture, besides the one of its own name.
_MORE_ROWS = {"concepts": ("concepts:scene",), "leakage": tuple(f"leakage:{part}" for part in PARTS)}
_FLOAT_METRICS = ("identity", "image_text", "attention")


class ManifestsAlone:
    """A store that keeps no blob; everything else is the inner store's."""

    def __init__(self, inner: ObjectStore):
        self._inner, self.url = inner, inner.url

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See ObjectStore."""
        return True if "/blobs/" in name else self._inner.put_if_absent(name, data)


def write_config(root: Path, people: int, *, store: str = "") -> Path:
    """The configuration of a run of so many people on a store below `root`, or elsewhere; and their photos, if need be.

    Each photo is a few bytes of its own.
    """
    manifest = root / "people" / "identities.csv"
    if not manifest.is_file():
        write_manifest(manifest.parent, people)
    config = root / ("run.yaml" if not store else "elsewhere.yaml")
    lines = (
        f"store: {store or root / 'store'}",
        f"identities: {manifest}",
        "personalize: {preset: semantic-fidelity}",
        "score: {named_people: 1}",
        "execution: {executor: inline, threads_per_worker: 1}",
    )
    config.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return config


def fill(config: Path) -> None:
    """Commit everything that a configuration of `write_config` misses in its store."""
    with _without_fsync():
        pretend_night(load_config(config), outputs_of=outputs_of, store_of=ManifestsAlone)


def outputs_of(work: Work) -> dict[str, Output]:
    """What a work left behind: scores as a worker writes them, and else a few bytes for each output."""
    stage = work.call.stage
    if not stage.startswith(METRIC_PREFIX):
        return made_up(work)
    variant = int(work.call.key[:8], 16) % _VARIANTS
    prompts = tuple(each[0] for each in work.call.parameters["prompts"])
    return {SCORES: _scores(stage.removeprefix(METRIC_PREFIX), variant, prompts)}


@functools.cache
def _scores(metric: str, variant: int, prompts: Sequence[str]) -> Output:
    seeds = range(NightlyConfig().generate.seeds)
    draws = np.random.default_rng([variant, len(metric)])

    def value() -> float:
        drawn = float(draws.random())
        return round(drawn, 6) if metric in _FLOAT_METRICS else float(drawn > 0.2)

    rows = [
        MetricRow(prompt, seed, name, value())
        for name in (metric, *_MORE_ROWS.get(metric, ()))
        for prompt in prompts
        for seed in seeds
    ]
    return Output(write_scores(rows), "application/vnd.apache.parquet", inline=True)


@contextmanager
def _without_fsync():
    """The store need not survive a power cut."""
    sync, os.fsync = os.fsync, lambda _: None
    try:
        yield
    finally:
        os.fsync = sync
