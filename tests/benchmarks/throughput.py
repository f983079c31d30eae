"""Training samples per second: our trainer against the step of diffusers' own Textual Inversion training loop.

Compared: the preset textual-inversion (one vector, one stage, no attention loss) at m samples a step for each of B
people in one pass, and the published script at batch m for its one person. A sample is one noised copy of a photo
taken forward and backward through the same U-Net at the same resolution, precision and number of threads.

Fair, because both do the same learning for each sample, and start-up and set-up are in neither: the script's step is
the difference of two runs of different length, ours is timed from one step's end to another's within a run. What the
script does at every step and we do once for each photo (encoding the picture, tokenizing the prompt, moving the whole
table of embeddings) is the gain that is measured. Its step is the loop as published: no validation pictures, no
checkpoints, no tracker. Our set-up of a person (two pictures encoded, a look at the attention) and its closing (another
look, for the person's page) are listed beside, and so is `published_loop.py`, with which `gpu` compares instead of the
script.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from faceid_core.config.method import Method
from faceid_core.diffusion.base import BaseModel
from faceid_core.personalize.slots import TrainingPhoto
from faceid_core.personalize.trainer import SlotFailure, personalize

from .measuring import alternate, ratios, seconds_of, spread
from .models import diffusers_pipeline, load, method, training_photos
from .published_loop import PublishedLoop
from .published_script import MISSING, PublishedScript, folder_with
from .results import Row, absent
from .settings import CPU, Place, Settings, cpu_bfloat16

NAME = "throughput"
PRESET = "textual-inversion"
SAMPLES, SLOTS = (1, 2, 4), (1, 2, 4, 8, 16, 32)
_BAR = 2.5
WARM_STEPS = 2
_LOOP_STEPS = 20


def run(settings: Settings) -> list[Row]:
    """Every m and B in every precision; without the script's path only our own rows are filled."""
    return [row for place in (CPU, *cpu_bfloat16()) for row in _at(place, settings)]


def _at(place: Place, settings: Settings) -> list[Row]:
    base = load(place, settings)
    counts, seats = ((1, 2), (1, 4)) if settings.quick else (SAMPLES, SLOTS)
    photos = training_photos(base, max(seats))
    script = None
    if settings.script:
        photo = folder_with(settings.scratch / "one-photo", photos[0].image)
        script = PublishedScript(settings, place, photo, base.description.resolution)
    rows = []
    for m in counts:
        cases: dict[object, Callable[[], float]] = {
            slots: lambda m=m, slots=slots: (
                m * slots / step_seconds(base, photos[:slots], _learned(m, slots)).step
            )
            for slots in seats
        }
        if script:
            cases["script"] = lambda m=m: m / script.seconds_per_step(batch=m, **_lengths(settings))
            loop = PublishedLoop(diffusers_pipeline(place), place, script.photos, script.resolution)
            cases["loop"] = lambda m=m, loop=loop: m / loop_seconds(loop, m, _LOOP_STEPS)
        found = alternate(cases, settings.repeats, warm=settings.warm)
        rate = "samples/s"
        rows += [Row(NAME, f"ours, m={m}, B={b}", rate, spread(found[b]), device=place.label) for b in seats]
        if not script:
            rows.append(absent(NAME, f"gain at m={m}", MISSING, device=place.label))
            continue
        rows.append(Row(NAME, f"script, batch {m}", rate, spread(found["script"]), device=place.label))
        top = max(seats, key=lambda b: spread(found[b]).median)
        bar = ("at least", _BAR) if m == 1 else None
        case = f"gain at m={m}, best B={top}"
        rows.append(Row(NAME, case, "x", ratios(found[top], found["script"]), bar, place.label))
        case, loop = f"the loop that gpu compares with, batch {m}, over the script", found["loop"]
        rows.append(Row(NAME, case, "x", ratios(loop, found["script"]), device=place.label))
    few = min(4, max(seats))
    once = step_seconds(base, photos[:few], _learned(1, few))
    for case, seconds in (("set-up", once.set_up), ("closing", once.closing)):
        rows.append(Row(NAME, f"ours, {case} of a person", "s", spread([seconds]), device=place.label))
    return rows


def _learned(samples_per_step: int, slots: int) -> Method:
    """The method for so many people: the fewer steps are timed, the more samples a step has."""
    steps = WARM_STEPS + max(4, 64 // (slots * samples_per_step))
    return method(PRESET, steps=steps, samples_per_step=samples_per_step)


def loop_seconds(loop: PublishedLoop, samples: int, steps: int) -> float:
    """Seconds of a step of diffusers' loop in this process, the mean of some after a first one."""
    loop.step(samples)
    return seconds_of(lambda: [loop.step(samples) for _ in range(steps)]) / steps


def _lengths(settings: Settings) -> dict[str, int]:
    """Steps of the script's two runs: far enough apart that the start-up's scatter is small beside the difference."""
    return {"short": 5, "long": 35} if settings.quick else {"short": 10, "long": 310}


class Timing(NamedTuple):
    """Seconds of one step of all people together, and of opening and of closing one person's slot.

    `closing` is None where measuring ended before the last step; `steps` are those that were timed.
    """

    step: float
    set_up: float
    closing: float | None
    steps: int


class NotWhole(RuntimeError):
    """The steps were not those of all people together, so that their time tells nothing."""


def step_seconds(
    base: BaseModel,
    photos: Sequence[TrainingPhoto],
    learned: Method,
    *,
    samples_at_once: int = 0,
    most_seconds: float = math.inf,
) -> Timing:
    """Train all photos together for a few steps, and tell the seconds.

    Args:
        photos: as many as slots, so that all seats are taken from the first step to the last.
        learned: the steps after its first `WARM_STEPS` are timed.
        most_seconds: of timed steps, after which training ends early; one step is timed in any case.

    Raises:
        NotWhole: a person's training began again, or the memory ran out for some.
        torch.OutOfMemoryError: it ran out for one person already.
    """
    clock = StepClock(len(photos), most_seconds)
    began = time.perf_counter()
    training = personalize(
        base,
        photos,
        learned,
        slots=len(photos),
        samples_at_once=samples_at_once,
        progress=clock.progress,
    )
    closing = None
    try:
        for result in training:
            if isinstance(result, SlotFailure):
                raise NotWhole(f"the training of {result.name} stopped: {result.reason}")
        closing = (time.perf_counter() - clock.ends[learned.steps]) / len(photos)
    except StepsOver:
        pass
    last = max(clock.ends)
    each = (clock.ends[last] - clock.ends[WARM_STEPS]) / (last - WARM_STEPS)
    # What the first step took beyond a usual step's time is the opening of the slots; after the last one all close.
    set_up = max(0.0, clock.ends[1] - began - each) / len(photos)
    return Timing(each, set_up, closing, last - WARM_STEPS)


class StepsOver(Exception):
    """The seconds are over."""


class StepClock:
    """When each step ended: at the first person who took it, for at the last step people are finished in between."""

    def __init__(self, people: int, most_seconds: float):
        self.people, self.most_seconds = people, most_seconds
        self.ends: dict[int, float] = {}
        self.taken: dict[str, int] = {}

    def progress(self, name: str, step: int, _total: int) -> None:
        """See ProgressCallback."""
        if step != self.taken.get(name, 0) + 1:
            raise NotWhole(f"the training of {name} began again")
        self.taken[name] = step
        if step in self.ends:
            return
        if step > 1 and sum(taken >= step - 1 for taken in self.taken.values()) < self.people:
            raise NotWhole(f"the memory holds fewer than {self.people} people")
        self.ends[step] = time.perf_counter()
        if step > WARM_STEPS and self.ends[step] - self.ends[WARM_STEPS] >= self.most_seconds:
            raise StepsOver
