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

from collections.abc import Callable, Sequence

import torch
from diffusers import DPMSolverMultistepScheduler

from faceid_core.diffusion.base import BaseModel
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.evaluate.grid import load_grid
from faceid_core.personalize.tokens import IdentityTokens

from .measuring import alternate, ratios, seconds_of, spread
from .models import diffusers_pipeline, load, somebody
from .results import Row
from .settings import CPU, Place, Settings

NAME = "pictures"
SEEDS = 4
_BAR = 1.7
_STEPS, _GUIDANCE = 12, 4.0
_BATCHES = (8, 16, 32)


def run(settings: Settings) -> list[Row]:
    """Every way of calling either."""
    place = CPU
    texts = [prompt.text for prompt in load_grid("miniature").prompts][: 2 if settings.quick else 16]
    batches = (4, 8) if settings.quick else _BATCHES
    count = len(texts) * SEEDS
    theirs, plain = Published(place, _STEPS, _GUIDANCE), plain_words(texts)
    base = load(place, settings)
    tokens = somebody(base)
    cases: dict[str, Callable[[], None]] = {
        "seeds one by one": lambda: theirs.one_by_one(plain),
        f"num_images_per_prompt={SEEDS}": lambda: theirs.together(plain, SEEDS),
        **{f"batch {size}": lambda size=size: theirs.together(plain, size) for size in batches},
        **{
            f"draw {size}": lambda size=size: draw_all(base, tokens, texts, size, _STEPS, _GUIDANCE)
            for size in batches
        },
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
    for name, bar in ((one, _BAR), (four, _BAR), (their_best, 1.0)):
        case, gain = f"gain of {best} over pipeline, {name}", ratios(found[best], found[name])
        rows.append(Row(NAME, case, "x", gain, ("at least", bar), place.label))
    return rows


def plain_words(texts: Sequence[str]) -> list[str]:
    """The prompts with a plain word in the person's place."""
    return [text.replace("V*", "person") for text in texts]


def draw_all(
    base: BaseModel, tokens: IdentityTokens, texts: Sequence[str], batch: int, steps: int, guidance: float
) -> None:
    """Draw every text with every seed."""
    requests = [DrawRequest(tokens, text, seed) for text in texts for seed in range(SEEDS)]
    drawn = draw(base, requests, steps=steps, guidance_scale=guidance, batch=batch, record_attention=False)
    for _ in drawn:
        pass


class Published:
    """diffusers' pipeline with the same scheduler and settings.

    Args:
        steps, guidance: of every picture.
    """

    def __init__(self, place: Place, steps: int, guidance: float):
        pipeline = diffusers_pipeline(place)
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline, self.steps, self.guidance = pipeline, steps, guidance

    def one_by_one(self, texts: Sequence[str]) -> None:
        """A call for each of every text's pictures."""
        for text in texts:
            for seed in range(SEEDS):
                self._call([text], [seed])

    def together(self, texts: Sequence[str], size: int) -> None:
        """A call for `size` pictures: of one text, or of several."""
        each = size // SEEDS
        for first in range(0, len(texts), each):
            self._call(texts[first : first + each], range(SEEDS))

    def _call(self, texts: Sequence[str], seeds: Sequence[int]) -> None:
        self.pipeline(
            list(texts),
            num_images_per_prompt=len(seeds),
            generator=[torch.Generator().manual_seed(seed) for _ in texts for seed in seeds],
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            output_type="np",
        )
