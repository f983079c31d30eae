"""The share of the device's matrix-product ceiling that a training step and a picture reach.

Compared: operations per second of one training step (default preset and textual-inversion, eight people together),
and of drawing a batch, with the operations per second of the best of several square matrix products of the same
precision, on the same threads, measured in turn with them. The operations are counted (`operations.py`), not
estimated: those of one step are the difference between a training of n + 1 and of n steps, so that opening a slot is
in neither. The notes list them by kind; docs/benchmarks.md works them out.

Fair in one direction only: the ceiling is what a library reaches on large square products, which no convolution on
small maps reaches, and element-wise work is time without operations. The share says how much is left at most.
"""

from __future__ import annotations

from collections import Counter

import torch

from faceid_core.config.method import Method
from faceid_core.diffusion.base import BaseModel
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.personalize.trainer import personalize

from .measuring import alternate, ratios, seconds_of, spread
from .models import load, method, somebody, training_photos
from .operations import count_operations
from .results import Row
from .settings import CPU, Place, Settings
from .throughput import WARM_STEPS, step_seconds

NAME = "ceiling"
PRESETS = ("semantic-fidelity", "textual-inversion")
_SIDES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
_TIMED_STEPS = 4
_STEPS, _GUIDANCE = 12, 4.0


def run(settings: Settings) -> list[Row]:
    """The ceiling, and the shares of it."""
    place = CPU
    base = load(place, settings)
    slots, samples, batch = (2, 5, 4) if settings.quick else (8, 10, 32)
    photos = training_photos(base, slots)
    timed = {
        preset: method(preset, steps=WARM_STEPS + _TIMED_STEPS, samples_per_step=samples)
        for preset in PRESETS
    }
    steps = {preset: step_operations(base, photos, timed[preset]) for preset in PRESETS}
    tokens = somebody(base)

    def pictures() -> None:
        requests = [DrawRequest(tokens, "a photo of V* on the beach", seed) for seed in range(batch)]
        list(
            draw(base, requests, steps=_STEPS, guidance_scale=_GUIDANCE, batch=batch, record_attention=False)
        )

    drawn = count_operations(pictures)
    cases = {
        preset: lambda preset=preset: total(steps[preset]) / step_seconds(base, photos, timed[preset]).step
        for preset in PRESETS
    }
    cases["pictures"] = lambda: total(drawn) / seconds_of(pictures)
    cases["ceiling"] = lambda: best_product(place, base.dtype)
    found = alternate(cases, settings.repeats, warm=settings.warm)
    names = {preset: f"step of {preset}, {slots} people x {samples} samples" for preset in PRESETS}
    names["pictures"] = f"{batch} pictures of {_STEPS} steps"
    rows = [Row(NAME, "ceiling: matrix products", "G/s", _giga(found["ceiling"]), device=place.label)]
    for case, counted in {**steps, "pictures": drawn}.items():
        each = ratios(found[case], found["ceiling"])
        rows.append(
            Row(NAME, f"{names[case]}: speed", "G/s", _giga(found[case]), None, place.label, told(counted))
        )
        rows.append(Row(NAME, f"{names[case]}: share of the ceiling", "x", each, device=place.label))
    return rows


def step_operations(base: BaseModel, photos: list, learned: Method) -> Counter[str]:
    """Operations of one training step by kind: n + 1 steps less n steps."""

    def of(steps: int) -> Counter[str]:
        brief = learned.model_copy(update={"steps": steps, "warmup_steps": 0})
        return count_operations(lambda: list(personalize(base, photos, brief, slots=len(photos))))

    more, less = of(2), of(1)
    return Counter({kind: more[kind] - less[kind] for kind in more})


def best_product(place: Place, precision: torch.dtype) -> float:
    """Operations a second of the fastest of several square matrix products."""
    return max(_product_speed(side, place.device, precision) for side in _SIDES[place.device])


def _product_speed(side: int, device: str, precision: torch.dtype, times: int = 4) -> float:
    left = torch.randn(side, side, device=device).to(precision)
    right = torch.randn(side, side, device=device).to(precision)

    def products() -> None:
        for _ in range(times):
            torch.matmul(left, right)
        if device == "cuda":
            torch.cuda.synchronize()

    products()  # warm
    return times * 2 * side**3 / seconds_of(products)


def total(counted: Counter[str]) -> int:
    """All kinds together."""
    return sum(counted.values())


def told(counted: Counter[str]) -> str:
    """Operations by kind in words, the most first."""
    kinds = ", ".join(f"{kind} {count / 1e9:.2f}" for kind, count in counted.most_common() if count)
    return f"{total(counted) / 1e9:.2f} G operations: {kinds}"


def _giga(values: list[float]):
    return spread([value / 1e9 for value in values])
