"""Portraits that a base model draws of its own known names, from which the name prior is learned.

The portraits are never stored and never scored: they go through the autoencoder and are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from faceid_core.diffusion.base import BaseModel
from faceid_core.personalize.conditioning import two_token_names
from faceid_core.personalize.name_prior import NamePrior, fit_name_prior
from faceid_core.personalize.prompts import training_prompt

from .generation import DrawRequest, draw

# Few steps suffice for a likeness; measured on tuning people (docs/tuning.md).
_STEPS, _GUIDANCE_SCALE, _BATCH = 12, 4.0, 32


def learn_name_prior(
    base: BaseModel,
    names: Sequence[str],
    *,
    template: str,
    portraits: int,
    components: int,
    progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> NamePrior:
    """Draw portraits of the known names with the training prompt and fit the prior to them.

    Args:
        names: known names; those that are not two tokens long for every text encoder are left out.
        template: training prompt with {} for the person.
        portraits: of each name; their noise is the same for all names.
        components: principal components of the names' contexts.
        progress: called with portraits drawn, and in all, after every sampling step too: a batch may take minutes.

    Raises:
        ConfigurationError: too few names have two tokens, or are drawn alike.
    """
    asked, names = names, two_token_names(base.towers.values(), names)
    prompt = training_prompt(template)
    requests = [DrawRequest(name, prompt, seed) for name in names for seed in range(portraits)]
    latents: list[torch.Tensor] = []
    drawn = draw(
        base,
        requests,
        steps=_STEPS,
        guidance_scale=_GUIDANCE_SCALE,
        batch=_BATCH,
        record_attention=False,
        on_step=lambda: progress(len(latents), len(requests)),
    )
    for picture in drawn:
        latents.append(base.encode_images([picture.image])[0].cpu())
        progress(len(latents), len(requests))
    stacked = torch.stack(latents).unflatten(0, (len(names), portraits))  # [names, portraits, c, side, side]
    prior = fit_name_prior(base, names, stacked, template=template, components=components)
    return replace(prior, left_out=len(asked) - len(prior.names))
