"""Training samples per second: our trainer against the step of diffusers' own Textual Inversion training loop.

Compared: the preset textual-inversion (one vector, one stage, no attention loss) at m samples a step for each of B
people in one pass, and the published script at batch m for its one person. A sample is one noised copy of a photo
taken forward and backward through the same U-Net at the same resolution, precision and number of threads.

Fair, because both do the same learning for each sample, and start-up and set-up are in neither: the script's step is
the difference of two runs of different length, ours is timed from one step's end to another's within a run. What the
script does at every step and we do once for each photo (encoding the picture, tokenizing the prompt, moving the whole
table of embeddings) is the gain that is measured. Its step is the loop as published: no validation pictures, no
checkpoints, no tracker. Our set-up of a person (two pictures encoded, a look at the attention) and its closing (another
look, for the person's page) are listed beside.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from faceid_core.diffusion.base import BaseModel
from faceid_core.personalize.trainer import SlotFailure, personalize

from .measuring import alternate, ratios, spread
from .models import load, method, training_photos
from .published_script import MISSING, PublishedScript, folder_with
from .results import Row, absent
from .settings import NO_CUDA, Place, Settings, cpu_bfloat16, has_cuda, places

NAME = "throughput"
PRESET = "textual-inversion"
SAMPLES, SLOTS = (1, 2, 4), (1, 2, 4, 8, 16, 32)
_BARS = {"cpu": 2.5, "cuda": 10.0}
_WARM_STEPS = 2


def run(settings: Settings) -> list[Row]:
    """Every m and B on every device; without the script's path only our own rows are filled."""
    rows = []
    for place in [*places(settings), *cpu_bfloat16()]:
        rows += _at(place, settings)
    if not has_cuda():
        rows.append(absent(NAME, "gain at m=1", NO_CUDA, device="cuda", bar=("at least", _BARS["cuda"])))
    return rows


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
            slots: lambda m=m, slots=slots: m * slots / step_seconds(base, photos[:slots], m).step
            for slots in seats
        }
        if script:
            cases["script"] = lambda m=m: m / script.seconds_per_step(batch=m, **_lengths(settings, place))
        found = alternate(cases, settings.repeats, warm=settings.warm)
        rate = "samples/s"
        rows += [Row(NAME, f"ours, m={m}, B={b}", rate, spread(found[b]), device=place.label) for b in seats]
        if not script:
            rows.append(absent(NAME, f"gain at m={m}", MISSING, device=place.label))
            continue
        rows.append(Row(NAME, f"script, batch {m}", rate, spread(found["script"]), device=place.label))
        top = max(seats, key=lambda b: spread(found[b]).median)
        bar = ("at least", _BARS[place.device]) if m == 1 else None
        case = f"gain at m={m}, best B={top}"
        rows.append(Row(NAME, case, "x", ratios(found[top], found["script"]), bar, place.label))
    once = step_seconds(base, photos[: min(4, max(seats))], 1)
    for case, seconds in (("set-up", once.set_up), ("closing", once.closing)):
        rows.append(Row(NAME, f"ours, {case} of a person", "s", spread([seconds]), device=place.label))
    return rows


def _lengths(settings: Settings, place: Place) -> dict[str, int]:
    """Steps of the script's two runs: far enough apart that the start-up's scatter is small beside the difference."""
    if settings.quick:
        return {"short": 5, "long": 35}
    return {"short": 10, "long": 310 if place.device == "cpu" else 110}


class Timing(NamedTuple):
    """Seconds of one step of all people together, and of opening and of closing one person's slot."""

    step: float
    set_up: float
    closing: float


def step_seconds(
    base: BaseModel, photos: list, samples_per_step: int, *, preset: str = PRESET, steps: int | None = None
) -> Timing:
    """Train all photos together for a few steps, and tell the seconds.

    Args:
        photos: as many as slots, so that all seats are taken from the first step to the last.
        steps: timed after the first `_WARM_STEPS`; None takes fewer the more samples a step has.

    Raises:
        RuntimeError: a person's training stopped, so that the steps were not whole.
    """
    timed = steps or max(4, 64 // (len(photos) * samples_per_step))
    learned = method(preset, steps=_WARM_STEPS + timed, samples_per_step=samples_per_step)
    ends: dict[int, float] = {}
    began = time.perf_counter()

    def progress(_name: str, step: int, _total: int) -> None:
        # The first of those who took this step: at the last one, people are finished in between.
        ends.setdefault(step, time.perf_counter())

    for result in personalize(base, photos, learned, slots=len(photos), progress=progress):
        if isinstance(result, SlotFailure) or result.restarted:
            raise RuntimeError(f"the training of {result.name} did not run through; the steps were not whole")
    each = (ends[_WARM_STEPS + timed] - ends[_WARM_STEPS]) / timed
    # What the first step took beyond a usual step's time is the opening of the slots; after the last one all close.
    set_up = max(0.0, ends[1] - began - each) / len(photos)
    return Timing(each, set_up, (time.perf_counter() - ends[_WARM_STEPS + timed]) / len(photos))
