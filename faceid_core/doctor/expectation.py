"""What a run will take: from earlier results in the store, or else from a short measurement here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from faceid_core.config import NightlyConfig
from faceid_core.config.method import Method
from faceid_core.plan.planning import RunPlan
from faceid_core.report.figures import duration
from faceid_core.stages.plan import Plan

from .finding import Finding

# Without figures for these an estimate says nothing.
_LONG_STAGES = ("personalize", "generate")
# For the measurement of training and of drawing each; a person waits for the answer.
MEASURING_SECONDS = 3.0
_MORE_AT_ONCE = 4  # times as many in the next round
_STEPS = 3  # beside one, whose difference is two


@dataclass(frozen=True)
class Expected:
    """What the people who are not cached yet take.

    Args:
        worker_seconds: of all workers together.
        source: where the figure comes from, for people to read.
        is_bound: whether some work is not counted, so that the figure is a lower bound.
    """

    worker_seconds: float
    source: str
    is_bound: bool = False


def expectation(
    planned: RunPlan,
    *,
    workers: int,
    cost_per_hour: float | None = None,
    measure: Callable[[NightlyConfig, Plan, int], Expected] | None = None,
) -> Iterator[Finding]:
    """How long the run takes for the identities that are not cached, and what it costs.

    Args:
        planned: what is cached and what is not.
        workers: that share the people.
        cost_per_hour: of one worker, in any currency.
        measure: used where no earlier result tells; None leaves it open.
    """
    people = _to_do(planned)
    if not people:
        yield Finding("seconds a person", "ok", "nothing to compute: everything is cached")
        return
    expected = from_results(planned)
    if expected is None:
        if measure is None:
            yield Finding("seconds a person", "warn", "no earlier result tells", "leave out --no-measuring")
            return
        expected = measure(planned.run.plan.config, planned.run.plan, people)
    seconds = expected.worker_seconds / people
    yield Finding("seconds a person", "ok", f"{seconds:.1f} s ({expected.source})")
    hours = expected.worker_seconds / 3600
    bound = "at least" if expected.is_bound else "about"
    cost = "" if cost_per_hour is None else f", cost {bound} {hours * cost_per_hour:.2f}"
    wall = duration(expected.worker_seconds / max(1, workers))
    found = f"{people} of {len(planned.run.outcome_reports)} people to compute: {bound} {wall} on {workers} worker(s)"
    yield Finding("the whole run", "ok", f"{found}, {hours:.2f} worker hours{cost}")


def _to_do(planned: RunPlan) -> int:
    """People who lack a result."""
    lacking = {miss.subject for row in planned.stages for miss in row.misses}
    lacking |= {subject for row in planned.stages for subject in row.waiting}
    return len(lacking & set(planned.run.outcome_reports))


def from_results(planned: RunPlan) -> Expected | None:
    """Earlier results of this store, by the size of the work; None if none tells of training or drawing."""
    estimate = planned.estimate
    if not estimate.seconds or {*_LONG_STAGES} & {*estimate.unknown}:
        return None
    count = sum(estimate.samples.values())
    source = f"from {count} earlier results in this store"
    if estimate.unknown:
        source += f"; without {', '.join(estimate.unknown)}, of which there is none"
    return Expected(estimate.worker_seconds, source, bool(estimate.unknown))


def calibrate(config: NightlyConfig, plan: Plan, people: int) -> Expected:
    """Time some steps of training and of drawing here, and count up to what these people take.

    Training always fills its slots, so that fewer people than slots share the whole pass. Detection and scoring are
    left out: seconds where training and drawing take minutes.
    """
    from faceid_core.stages.models import Models, WorkerSettings

    models = Models(WorkerSettings.from_config(config, plan.weights, threads=0))
    base = models.base
    slots = config.personalize.slots or models.measured_slots(plan.method)
    passes = math.ceil(people / slots)
    method, samples_at_once = _timed(config, plan.method), config.personalize.samples_at_once
    step, trained = seconds_each(partial(_learn, base, method, samples_at_once), slots)
    drawing, drawn = seconds_each(partial(_draw, base, config), config.generate.batch)
    pictures = people * len(plan.grid.prompts) * config.generate.seeds
    seconds = passes * slots * plan.method.steps * step + pictures * config.generate.steps * drawing
    source = (
        f"measured here: {step:.3f} s a training step with {trained} of {slots} at once, {drawing * 1000:.0f} ms a "
        f"picture's sampling step with {drawn} of {config.generate.batch}; "
        f"without scoring{' or the name prior' if plan.method.needs_prior else ''}"
    )
    return Expected(seconds, source, is_bound=True)


def _timed(config: NightlyConfig, method: Method) -> Method:
    """The method whose steps are timed: of one with a name prior the form without, whose steps cost as much."""
    if not method.needs_prior:
        return method
    size = {"samples_per_step": method.samples_per_step}
    return config.personalize.resolved(has_names=False).model_copy(update=size)


def _learn(base: Any, method: Method, samples_at_once: int, steps: int, people: int) -> None:
    """Learn made-up people, all at once."""
    from faceid_core.personalize.slots import TrainingPhoto
    from faceid_core.personalize.trainer import personalize

    side = base.description.resolution
    gray = np.full((side, side, 3), 127, np.uint8)
    mask = np.zeros((side, side), np.float32)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 1
    photos = [
        TrainingPhoto(f"calibration-{n}", f"{n:064x}", gray, mask, np.ones((side, side), bool), "person")
        for n in range(people)
    ]
    shorter = method.model_copy(update={"steps": steps, "warmup_steps": 0})
    list(personalize(base, photos, shorter, slots=people, samples_at_once=samples_at_once, seed=0))


def _draw(base: Any, config: NightlyConfig, steps: int, pictures: int) -> None:
    """Draw pictures of a person, all at once."""
    from faceid_core.evaluate.generation import DrawRequest, draw

    chosen = config.generate
    requests = [DrawRequest("person", "a photo of V*", seed) for seed in range(pictures)]
    drawn = draw(
        base,
        requests,
        sampler=chosen.sampler,
        steps=steps,
        guidance_scale=chosen.guidance_scale,
        batch=pictures,
        size=chosen.size(base.description.resolution),
    )
    list(drawn)


def seconds_each(
    act: Callable[[int, int], None], most: int, *, limit: float = MEASURING_SECONDS
) -> tuple[float, int]:
    """Seconds of one step for each of several that take it at once.

    Begins with one, and goes to more at once as long as time allows. A GPU needs many at once to be busy, and is quick
    with them; where many take long, a few keep the processor as busy.

    Args:
        act: takes so many steps with so many at once.
        most: at once in a run.
        limit: seconds for all of it; what is begun is ended.

    Returns:
        The seconds, and with how many at once that was.
    """
    began, at_once = time.perf_counter(), 1
    while True:
        round_began = time.perf_counter()
        seconds = _slope(lambda steps, at_once=at_once: act(steps, at_once), limit) / at_once
        now, following = time.perf_counter(), min(most, _MORE_AT_ONCE * at_once)
        if at_once == most or now - began + (now - round_began) * following / at_once > limit:
            return seconds, at_once
        at_once = following


def _slope(act: Callable[[int], None], limit: float) -> float:
    """Seconds that one more step takes: the start, which is paid once, falls out.

    Where a single step takes longer than the limit there is no second, and its seconds are those of step and start.
    """

    def seconds_of(steps: int) -> float:
        began = time.perf_counter()
        act(steps)
        return time.perf_counter() - began

    first = seconds_of(1)  # also warms up what is warmed up once
    if first > limit:
        return first
    few, many = seconds_of(1), seconds_of(_STEPS)
    return max(1e-6, (many - few) / (_STEPS - 1))
