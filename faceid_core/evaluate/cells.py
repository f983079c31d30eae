"""A cell is one picture of the grid, identified by a digest before it is drawn: a changed grid redraws little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faceid_core.config.control import WHOLE, IdentityUse
from faceid_core.store.keys import canonical_json, sha256_hex

from .grid import Prompt, PromptGrid

_FORMAT = "faceid-cell-1"


@dataclass(frozen=True)
class DrawSettings:
    """What determines a picture besides its subject, prompt and seed.

    Args:
        base: digest of the base model.
        sampler: name of the sampler.
        steps: denoising steps.
        guidance_scale: of classifier-free guidance.
        precision: number format of the network.
        version: version of the drawing code; raising it makes every picture new.
        use: how much of the person is used; the default takes no part in the digest.
        size: height and width in pixels; None, which takes no part either, for the base model's own.
    """

    base: str
    sampler: str
    steps: int
    guidance_scale: float
    precision: str
    version: int
    use: IdentityUse = WHOLE
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Cell:
    """One picture of the grid; two cells have the same digest exactly if their pictures are the same."""

    prompt: Prompt
    seed: int
    subject: str
    digest: str


def cell_digest(settings: DrawSettings, *, subject: str, prompt: str, seed: int) -> str:
    """The digest of one picture, 64 hex digits.

    Args:
        subject: digest of the identity's tokens, or the text that replaces `V*`.
        prompt: the text, with `V*`; the prompt's id and category do not change a picture.
        seed: picture seed of the grid.
    """
    preimage = {
        "format": _FORMAT,
        "subject": subject,
        "base": settings.base,
        "sampler": settings.sampler,
        "steps": settings.steps,
        # 7 and 7.0 are the same guidance.
        "guidance": float(settings.guidance_scale),
        "precision": settings.precision,
        "version": settings.version,
        "prompt": prompt,
        "seed": seed,
    }
    if use := settings.use.fields():
        preimage["use"] = use
    if settings.size:
        preimage["size"] = list(settings.size)
    return sha256_hex(canonical_json(preimage))


def grid_cells(
    grid: PromptGrid, seeds: Sequence[int], settings: DrawSettings, *, subject: str
) -> tuple[Cell, ...]:
    """Every picture of the grid for one subject, prompts outside, seeds inside."""
    return tuple(
        Cell(prompt, seed, subject, cell_digest(settings, subject=subject, prompt=prompt.text, seed=seed))
        for prompt in grid.prompts
        for seed in seeds
    )
