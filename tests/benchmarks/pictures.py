"""Pictures per second of our `draw` against diffusers' `StableDiffusionPipeline`.

Compared: the same prompts with four seeds each, at the same resolution, scheduler, number of steps, guidance,
precision and number of threads, no attention recorded. The pipeline is called prompt by prompt, with its four
seeds one by one and as `num_images_per_prompt`, and then over as many prompts at once as is fastest for it; `draw` has
whichever batch is fastest for it. All return finished pictures as arrays.

Fair, and where not, against us: `draw` draws a person of the default preset (two positions, its own keys and values in
five stages), the pipeline a plain word, encoded once for each call. The pipeline has no safety checker and no progress
bar. In half precision the pipeline decodes in half precision, `draw` in float32, as in a run.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

from faceid_core.diffusion.base import PRECISIONS
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.evaluate.grid import load_grid
from faceid_core.weights.describe import source_folder

from .measuring import alternate, ratios, seconds_of, spread
from .models import load, somebody
from .results import Row, absent
from .settings import NO_CUDA, Place, Settings, has_cuda, places

NAME = "pictures"
SEEDS = 4
_BARS = {"cpu": 1.7, "cuda": 3.0}
_STEPS, _GUIDANCE = 12, 4.0
_BATCHES = (8, 16, 32)


def run(settings: Settings) -> list[Row]:
    """Every way of calling either, on every device."""
    rows = []
    for place in places(settings):
        rows += _at(place, settings)
    if not has_cuda():
        bar = ("at least", _BARS["cuda"])
        rows.append(absent(NAME, "gain over prompt by prompt", NO_CUDA, device="cuda", bar=bar))
    return rows


def _at(place: Place, settings: Settings) -> list[Row]:
    texts = [prompt.text for prompt in load_grid("miniature").prompts][: 2 if settings.quick else 16]
    batches = (4, 8) if settings.quick else _BATCHES
    count = len(texts) * SEEDS
    theirs = Published(place, [text.replace("V*", "person") for text in texts])
    cases: dict[str, Callable[[], None]] = {
        "seeds one by one": theirs.one_by_one,
        f"num_images_per_prompt={SEEDS}": theirs.prompt_by_prompt,
        **{f"batch {size}": lambda size=size: theirs.together(size) for size in batches},
        **{f"draw {size}": our_drawing(place, settings, texts, size) for size in batches},
    }
    found = alternate(
        {name: lambda work=work: count / seconds_of(work) for name, work in cases.items()},
        settings.repeats,
        warm=settings.warm,
    )
    speed = {name: spread(figures) for name, figures in found.items()}
    best = max((f"draw {size}" for size in batches), key=lambda name: speed[name].median)
    their_best = max((f"batch {size}" for size in batches), key=lambda name: speed[name].median)
    rows = [
        Row(
            NAME,
            name if name.startswith("draw") else f"pipeline, {name}",
            "pictures/s",
            speed[name],
            None,
            place.label,
        )
        for name in cases
    ]
    one, four = list(cases)[:2]
    for name, bar in ((one, _BARS[place.device]), (four, _BARS[place.device]), (their_best, 1.0)):
        case, gain = f"gain of {best} over pipeline, {name}", ratios(found[best], found[name])
        rows.append(Row(NAME, case, "x", gain, ("at least", bar), place.label))
    return rows


def our_drawing(place: Place, settings: Settings, texts: list[str], batch: int) -> Callable[[], None]:
    """A function that draws every text with every seed."""
    base = load(place, settings)
    tokens = somebody(base)
    requests = [DrawRequest(tokens, text, seed) for text in texts for seed in range(SEEDS)]

    def work() -> None:
        list(draw(base, requests, steps=_STEPS, guidance_scale=_GUIDANCE, batch=batch, record_attention=False))

    return work


class Published:
    """diffusers' pipeline with the same scheduler and settings.

    Args:
        texts: prompts, plain words in the person's place.
    """

    def __init__(self, place: Place, texts: list[str]):
        folder, precision = source_folder(place.base), PRECISIONS[place.precision]
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder, dtype=precision, safety_checker=None, local_files_only=True
        )
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline, self.texts = pipeline.to(place.device), texts

    def one_by_one(self) -> None:
        """A call for each picture."""
        for text in self.texts:
            for seed in range(SEEDS):
                self._call(text, generator=_generator(seed))

    def prompt_by_prompt(self) -> None:
        """A call for each prompt, four pictures at once."""
        for text in self.texts:
            self._call(
                text, num_images_per_prompt=SEEDS, generator=[_generator(seed) for seed in range(SEEDS)]
            )

    def together(self, size: int) -> None:
        """A call for `size` pictures of several prompts."""
        each = size // SEEDS
        for first in range(0, len(self.texts), each):
            texts = self.texts[first : first + each]
            generators = [_generator(seed) for _ in texts for seed in range(SEEDS)]
            self._call(texts, num_images_per_prompt=SEEDS, generator=generators)

    def _call(self, text: str | list[str], **more) -> None:
        self.pipeline(text, num_inference_steps=_STEPS, guidance_scale=_GUIDANCE, output_type="np", **more)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
