"""What a night will take: from the last runs in the store's tables, or else from a short measurement here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, StoreError
from faceid_core.stages.plan import Plan
from faceid_core.store import ObjectStore

from .finding import Finding

_RUNS = 5  # the last ones that computed somebody
_LEAST_PEOPLE = 2  # of whom their seconds must be known


@dataclass(frozen=True)
class Expected:
    """Seconds that one worker takes for one person.

    Args:
        seconds: median over people, or as measured.
        source: where the figure comes from, for people to read.
        alike: whether it was measured with these very settings.
    """

    seconds: float
    source: str
    alike: bool


def expectation(
    config: NightlyConfig,
    plan: Plan,
    people: int,
    *,
    store: ObjectStore | None,
    workers: int,
    price_per_hour: float | None = None,
    measure: Callable[[NightlyConfig, Plan, int], Expected] | None = None,
) -> Iterator[Finding]:
    """How long the night takes if nothing is cached, and what it costs.

    Args:
        people: in the manifest.
        store: whose tables are asked; None where there is none.
        workers: that share the people.
        price_per_hour: of one worker's machine, in whatever money.
        measure: used where the tables say nothing.
    """
    expected = from_tables(config, plan, store) if store is not None else None
    if expected is None:
        expected = (measure or calibrate)(config, plan, people)
    yield Finding(
        "seconds a person", "ok" if expected.alike else "warn", f"{expected.seconds:.1f} s ({expected.source})",
        "" if expected.alike else "other settings take another time",
    )  # fmt: skip
    hours = people * expected.seconds / 3600
    wall = people * expected.seconds / max(1, workers)
    cost = ""
    if price_per_hour is not None:
        cost = f"; at {price_per_hour:g} an hour about {hours * price_per_hour:.2f}"
    found = f"{people} people on {workers} worker(s): about {_duration(wall)}, {hours:.2f} worker hours{cost}"
    yield Finding("the whole night", "ok", f"{found}, if nothing is cached")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def from_tables(config: NightlyConfig, plan: Plan, store: ObjectStore) -> Expected | None:
    """The median of the people whom the last runs computed wholly on this base model; None if there are too few.

    Runs with the same settings count alone where there are any; cached people say nothing.
    """
    from faceid_core.tables import Tables

    try:
        tables = Tables(store)
        runs = tables.read("runs").to_pylist()
        outcomes = tables.read("identity_outcomes").to_pylist()
    except (StoreError, ConfigurationError):
        return None
    fitting = [run for run in runs if run["base_digest"] == plan.weights["base"] and run["done"]]
    fitting.sort(key=lambda run: run["started_at"], reverse=True)
    same = [run for run in fitting if run["config_digest"] == config.digest()]
    for chosen, alike in ((same, True), (fitting, False)):
        ids = {run["run_id"] for run in chosen[:_RUNS]}
        seconds = [row["seconds"] for row in outcomes if row["run_id"] in ids and row["outcome"] == "done"]
        if len(seconds) >= _LEAST_PEOPLE:
            settings = "these settings" if alike else "this base model, other settings"
            return Expected(
                median(seconds), f"median of {len(seconds)} people in {len(ids)} run(s), {settings}", alike
            )
    return None


def calibrate(config: NightlyConfig, plan: Plan, people: int) -> Expected:
    """Time some steps of training and of drawing here, and count up to what a person takes.

    Training always fills its slots, so that fewer people than slots share the whole pass. Detection and scoring are
    left out: seconds where training and drawing take minutes.
    """
    from faceid_core.stages.models import Models, WorkerSettings

    models = Models(WorkerSettings.from_config(config, plan.weights, threads=0))
    base = models.base
    slots = config.personalize.slots
    passes = math.ceil(max(1, people) / slots)
    step = _training_seconds(base, plan.method, slots=slots) * passes * slots / max(1, people)
    drawing = _drawing_seconds(base, config)
    pictures = len(plan.grid.prompts) * config.generate.seeds
    seconds = plan.method.steps * step + pictures * config.generate.steps * drawing
    source = (
        f"measured here: {step:.3f} s a training step, {drawing * 1000:.0f} ms a picture's sampling step; "
        "without scoring"
    )
    return Expected(seconds, source, True)


def _training_seconds(base: Any, method: Any, *, slots: int) -> float:
    """Seconds of one step for each person, of a full pass."""
    from faceid_core.personalize.slots import TrainingPhoto
    from faceid_core.personalize.trainer import personalize

    side = base.description.resolution
    grey = np.full((side, side, 3), 127, np.uint8)
    mask = np.zeros((side, side), np.float32)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 1
    photos = [
        TrainingPhoto(f"calibration-{n}", f"{n:064x}", grey, mask, np.ones((side, side), bool), "person")
        for n in range(slots)
    ]

    def learn(steps: int) -> None:
        shorter = method.model_copy(update={"steps": steps, "warmup_steps": 0})
        list(personalize(base, photos, shorter, slots=slots, seed=0))

    return _slope(learn, (2, 5)) / slots


def _drawing_seconds(base: Any, config: NightlyConfig) -> float:
    """Seconds of one sampling step for each picture, in batches of the configured size."""
    from faceid_core.evaluate.generation import DrawRequest, draw

    chosen = config.generate
    requests = [DrawRequest("person", "a photo of V*", seed) for seed in range(chosen.batch)]

    def draw_all(steps: int) -> None:
        list(
            draw(
                base,
                requests,
                sampler=chosen.sampler,
                steps=steps,
                guidance=chosen.guidance,
                batch=chosen.batch,
            )
        )

    return _slope(draw_all, (2, 4)) / chosen.batch


def _slope(act: Callable[[int], None], steps: Sequence[int]) -> float:
    """Seconds that one more step takes: the start, which is paid once, falls out."""
    act(steps[0])  # the first call also warms up what is warmed up once
    seconds = []
    for count in steps:
        began = time.perf_counter()
        act(count)
        seconds.append(time.perf_counter() - began)
    return max(1e-6, (seconds[1] - seconds[0]) / (steps[1] - steps[0]))
