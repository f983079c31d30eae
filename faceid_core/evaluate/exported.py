"""Exporting a person to other tools: distillation on pictures that the tokens draw, and how the pictures compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from faceid_core.config.sections import GenerateConfig
from faceid_core.diffusion.base import BaseModel
from faceid_core.errors import ConfigurationError
from faceid_core.personalize.distill import Distilled, View, distill
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.progress import ProgressCallback, no_progress

from .cells import Cell
from .generation import DrawRequest, draw
from .grid import PromptGrid
from .metrics import score
from .pictures import Pictures
from .scorers import Scorers
from .shards import ShardRow

# Of the configured metrics those by which an export is measured.
MEASURED = ("identity", "identity_second", "concepts", "image_text", "detection")
# Every fourth prompt of a grid is held out: the loss is measured on prompts that distillation never saw.
_HELD_OUT_EVERY = 4
# Seeds of the pictures that distillation uses, apart from the grid's 0, 1, 2, ...
_FIRST_SEED, _HELD_OUT_SEED = 1_000, 2_000


@dataclass(frozen=True)
class DrawOptions:
    """How pictures are drawn: sampler, steps, guidance, batch and size as in `draw`."""

    sampler: str
    steps: int
    guidance_scale: float
    batch: int
    size: tuple[int, int] | None = None

    @classmethod
    def from_config(cls, chosen: GenerateConfig, resolution: int) -> DrawOptions:
        """As configured, for a base model whose pictures have sides of `resolution` pixels."""
        return cls(chosen.sampler, chosen.steps, chosen.guidance_scale, chosen.batch, chosen.size(resolution))

    def arguments(self) -> dict:
        """As keyword arguments of `draw`."""
        return dict(vars(self))


def distill_tokens(
    base: BaseModel,
    tokens: IdentityTokens,
    grid: PromptGrid,
    drawing: DrawOptions,
    *,
    steps: int = 300,
    vectors: int | None = None,
    pictures_per_prompt: int = 2,
    progress: ProgressCallback = no_progress,
) -> Distilled:
    """Distill a person on pictures of the grid's prompts that its own tokens draw; every fourth prompt is held out.

    The pictures have the base model's own size, as the photos that people are learned from.

    Args:
        steps: optimizer steps.
        vectors: token positions of the result; as many as the tokens' by default.
        progress: called with the name of the present part of the work, its steps done, and its steps in all.

    Raises:
        BaseMismatch: tokens of another base model.
        ConfigurationError: a prompt cannot be used, or the grid is too small to hold a prompt out.
    """
    texts = [prompt.text for prompt in grid.prompts]
    held_out = texts[_HELD_OUT_EVERY - 1 :: _HELD_OUT_EVERY]
    learned = [text for text in texts if text not in held_out]
    if not held_out:
        raise ConfigurationError(
            f"grid {grid.name} has {len(texts)} prompts, and every {_HELD_OUT_EVERY}th is held out to measure on; name "
            f"one with {_HELD_OUT_EVERY} prompts or more, as --set generate.grid=photographs"
        )
    seeds = range(_FIRST_SEED, _FIRST_SEED + pictures_per_prompt)
    drawing = replace(drawing, size=None)
    return distill(
        base,
        tokens,
        _views(base, tokens, learned, seeds, drawing, progress, "drawing pictures to learn from"),
        _views(
            base, tokens, held_out, (_HELD_OUT_SEED,), drawing, progress, "drawing pictures to measure on"
        ),
        steps=steps,
        vectors=vectors,
        progress=progress,
    )


def measure(
    base: BaseModel,
    subjects: Mapping[str, IdentityTokens | str],
    reference: np.ndarray,
    class_word: str,
    grid: PromptGrid,
    seeds: Sequence[int],
    drawing: DrawOptions,
    scorers: Scorers,
    metrics: Sequence[str],
    progress: ProgressCallback = no_progress,
) -> dict[str, dict[str, float]]:
    """Draw the grid for each subject with the same noise and score it against one person's photo.

    Args:
        subjects: name -> tokens or a plain text.
        reference: the person's photo, uint8 [h, w, 3].
        metrics: whose models the scorers hold.
        progress: as in `distill_tokens`.

    Returns:
        name -> metric -> mean over pictures; NaN where nothing could be measured.
    """
    found = {}
    for name, subject in subjects.items():
        wanted = [(prompt, seed) for prompt in grid.prompts for seed in seeds]
        requests = [DrawRequest(subject, prompt.text, seed) for prompt, seed in wanted]
        drawn = _drawn(base, requests, drawing, progress, f"drawing with the {name}")
        rows = [
            ShardRow.of(Cell(prompt, seed, name, ""), image)
            for (prompt, seed), image in zip(wanted, drawn, strict=True)
        ]
        pictures = Pictures(rows, scorers)
        found[name] = {
            metric: _mean(
                [
                    row.value
                    for row in score(
                        metric,
                        pictures,
                        prompts=grid.prompts,
                        reference=reference,
                        class_word=class_word,
                        scorers=scorers,
                    )
                    if row.metric == metric
                ]
            )
            for metric in metrics
        }
    return found


def _views(
    base: BaseModel,
    tokens: IdentityTokens,
    prompts: Sequence[str],
    seeds: Sequence[int],
    drawing: DrawOptions,
    progress: ProgressCallback,
    what: str,
) -> list[View]:
    """Pictures that the tokens draw, as latents."""
    requests = [DrawRequest(tokens, prompt, seed) for prompt in prompts for seed in seeds]
    drawn = _drawn(base, requests, drawing, progress, what)
    latents: list[torch.Tensor] = [base.encode_images([image])[0] for image in drawn]
    return [View(request.prompt, latent) for request, latent in zip(requests, latents, strict=True)]


def _drawn(
    base: BaseModel,
    requests: Sequence[DrawRequest],
    drawing: DrawOptions,
    progress: ProgressCallback,
    what: str,
) -> Iterator[np.ndarray]:
    """The requests' pictures; progress is reported at each sampling step too, since a batch may take minutes."""
    done = 0
    pictures = draw(
        base,
        requests,
        **drawing.arguments(),
        record_attention=False,
        on_step=lambda: progress(what, done, len(requests)),
    )
    for picture in pictures:
        done += 1
        progress(what, done, len(requests))
        yield picture.image


def _mean(values: Sequence[float | None]) -> float:
    measured = [value for value in values if value is not None]
    return float(np.mean(measured)) if measured else float("nan")
