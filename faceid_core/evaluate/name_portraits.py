"""Portraits that a base model draws of its own known names and of mixtures of them; the name prior is learned from them.

The portraits are never stored and never scored: they go through the autoencoder and are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import cv2
import numpy as np
import torch

from faceid_core.diffusion.base import BaseModel
from faceid_core.personalize.conditioning import two_token_names
from faceid_core.personalize.name_prior import (
    NamePrior,
    Teachers,
    drawn_alike,
    fit_name_prior,
    name_components,
    require_known,
)
from faceid_core.personalize.prompts import training_prompt
from faceid_core.personalize.tokens import MIXTURE, IdentityTokens

from .generation import DrawRequest, draw

_GUIDANCE_SCALE, _BATCH = 4.0, 32
# Portraits of each name itself, by which the model is seen to draw it alike from seed to seed. By two, 82 of 256 names
# that the miniature knows were left out at twice the variance of chance, by three 23.
_OF_A_NAME = 3
# A photo's crop lies a little beside where the model puts a face: copies of each portrait are moved by up to so much.
_MOVED_COPIES, _MOVED_BY = 3, 0.06
_SEED = 1


def learn_name_prior(
    base: BaseModel,
    names: Sequence[str],
    *,
    template: str,
    portraits: int,
    components: int,
    steps: int,
    progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> NamePrior:
    """Draw portraits of known names and of random mixtures of them with the training prompt, and fit the prior to them.

    Mixtures are people without a name: more of them teach more than more portraits of the same names do.

    Args:
        names: known names; those that are not two tokens long for every text encoder are left out.
        template: training prompt with {} for the person.
        portraits: in all, as a multiple of the names. The first three of each name are its own, with the same noise for
            all names; the others are of mixtures, each of which is drawn once.
        components: principal components of the names' contexts.
        steps: sampler steps of each portrait.
        progress: called with portraits drawn, and in all, after every sampling step too: a batch may take minutes.

    Raises:
        ConfigurationError: too few names have two tokens, or are drawn alike.
    """
    asked, names = names, two_token_names(base.towers.values(), names)
    own = min(portraits, _OF_A_NAME)
    total = portraits * len(names)
    prompt, draws = training_prompt(template), np.random.default_rng(_SEED)
    requests = [DrawRequest(name, prompt, seed) for name in names for seed in range(own)]
    of_names = _views(base, _drawn(base, requests, steps, lambda done: progress(done, total)), draws)
    kept = drawn_alike(of_names[:, 0].unflatten(0, (len(names), own)))
    require_known(kept)
    known = [name for name, keep in zip(names, kept.tolist(), strict=True) if keep]
    basis, coefficients = name_components(base, known, template, components)

    before = len(requests)
    of_mixtures = draws.standard_normal((total - before, len(basis)))
    requests = [
        DrawRequest(_mixture(base, known, 1 / len(known) + each @ basis, template), prompt, own + number)
        for number, each in enumerate(of_mixtures)
    ]
    drawn = _drawn(base, requests, steps, lambda done: progress(before + done, total))
    views = torch.cat([of_names[kept.repeat_interleave(own)], _views(base, drawn, draws)])
    wanted = np.concatenate([np.repeat(coefficients, own, axis=0), of_mixtures])
    people = np.concatenate([np.repeat(np.arange(len(known)), own), len(known) + np.arange(len(of_mixtures))])
    portraits_seen, copies = views.shape[:2]
    teachers = Teachers(
        latents=views.flatten(0, 1),
        coefficients=np.repeat(wanted, copies, axis=0),
        people=np.repeat(people, copies),
        plain=np.arange(portraits_seen * copies) % copies == 0,
    )
    prior = fit_name_prior(known, basis, teachers, left_out=len(asked) - len(known))
    return prior.to(base.device)


def _drawn(
    base: BaseModel, requests: Sequence[DrawRequest], steps: int, progress: Callable[[int], object]
) -> Iterator[np.ndarray]:
    """The pictures of the requests; `progress` is told how many there are, after every sampler step."""
    done = 0
    drawn = draw(
        base,
        requests,
        steps=steps,
        guidance_scale=_GUIDANCE_SCALE,
        batch=_BATCH,
        record_attention=False,
        on_step=lambda: progress(done),
    )
    for picture in drawn:
        done += 1
        progress(done)
        yield picture.image


def _views(base: BaseModel, pictures: Iterable[np.ndarray], draws: np.random.Generator) -> torch.Tensor:
    """Latents of each picture and of its moved copies, float32 [n, 1 + copies, c, side, side], on the CPU.

    Pictures are encoded as they are drawn, and none is kept.
    """
    found = [
        base.encode_images([picture, *(_moved(picture, draws) for _ in range(_MOVED_COPIES))]).cpu()
        for picture in pictures
    ]
    return torch.stack(found) if found else torch.empty(0, 1 + _MOVED_COPIES, *base.description.latent_shape)


def _mixture(base: BaseModel, names: Sequence[str], weights: np.ndarray, template: str) -> IdentityTokens:
    """A person who is a mixture of names, the same in all stages and for K and V."""
    about = base.description
    tensor = torch.from_numpy(weights).float().expand(1, 2, 1, -1).contiguous()
    return IdentityTokens(
        tensors={MIXTURE: tensor},
        base_digest=about.digest,
        class_word="person",
        template=template,
        boundaries=(),
        training_timesteps=about.training_timesteps,
        prediction_type=about.prediction_type,
        photo_digest="",
        names=tuple(names),
    )


def _moved(picture: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """A copy, shifted and enlarged or made smaller about its middle; uint8 [h, w, 3]."""
    height, width = picture.shape[:2]
    scale = float(np.exp(draws.uniform(-_MOVED_BY, _MOVED_BY)))
    right, down = draws.uniform(-_MOVED_BY, _MOVED_BY, 2) * (width / 2, height / 2)
    matrix = np.array(
        [
            [scale, 0.0, width / 2 * (1 - scale) + right],
            [0.0, scale, height / 2 * (1 - scale) + down],
        ]
    )
    return cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
