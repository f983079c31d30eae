"""How well tokens explain other pictures of the person: a criterion for choosing settings, without a scorer.

The renderer draws what a prompt asks for with the same person. With tokens that carry the person and do not affect the
rest of the prompt, the frozen network predicts such pictures better; with tokens that copy the photo or override the
prompt, worse. The reporting scorers are not involved, so settings may be chosen by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from faceid_core.diffusion.base import BaseModel
from faceid_core.miniature.captions import caption
from faceid_core.miniature.people import person_from_seed
from faceid_core.miniature.renderer import LABELS, render, sample_shot
from faceid_core.personalize.attention import StagedUNet
from faceid_core.personalize.objective import noised, prediction_target
from faceid_core.personalize.prompts import PLACEHOLDER
from faceid_core.personalize.subjects import identity_contexts, plain_contexts
from faceid_core.personalize.tokens import IdentityTokens

_FACE_LABELS = tuple(LABELS.index(name) for name in ("skin", "hair", "eyes", "brows", "mouth"))


@dataclass(frozen=True)
class OtherPictures:
    """Pictures of one person, each with a prompt that describes everything but the person.

    Attributes:
        latents: float32 [n, c, h, w].
        face: float32 [n, h, w], the share of each latent cell that is face or hair.
        prompts: n texts with `V*`.
    """

    latents: torch.Tensor
    face: torch.Tensor
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Explained:
    """Mean squared errors of the prediction: of the whole picture, of its face, and of the rest."""

    whole: float
    face: float
    rest: float


def other_pictures(base: BaseModel, person_seed: int, *, clothes: str, count: int = 24) -> OtherPictures:
    """Render `count` pictures of a person in scenes, with attributes, objects and other clothes than the photo's.

    Args:
        clothes: of the photo; these pictures show others.
    """
    rng = np.random.default_rng([person_seed, 5])
    person, shots = person_from_seed(person_seed), []
    while len(shots) < count:
        shot = sample_shot(rng, framing="half" if len(shots) % 2 else "face")
        if shot.clothes != clothes:
            shots.append(shot)
    drawn = [render(person, shot) for shot in shots]
    labels = np.stack([picture.labels for picture in drawn])
    face = np.isin(labels, _FACE_LABELS).astype(np.float32)
    latents = base.encode_images([picture.image for picture in drawn])
    cell = face.shape[1] // latents.shape[-1]
    n, height, width = face.shape
    shares = face.reshape(n, height // cell, cell, width // cell, cell).mean(axis=(2, 4))
    prompts = tuple(caption(shot, PLACEHOLDER) for shot in shots)
    return OtherPictures(latents, torch.from_numpy(shares).to(latents.device), prompts)


@torch.no_grad()
def explain(
    base: BaseModel, subject: IdentityTokens | str, pictures: OtherPictures, *, levels: int = 10
) -> Explained:
    """The network's prediction error on these pictures with `subject` in the prompt.

    Noise and timesteps depend only on the picture's index and the level, so that subjects are compared pairwise.

    Args:
        subject: tokens, or a plain text in place of `V*`: a class word, or a name that the base model knows.
        levels: timesteps at which each picture is noised, evenly spread.
    """
    staged = StagedUNet(base.unet)
    total = base.description.training_timesteps
    timesteps = torch.tensor([int((level + 0.5) * total / levels) for level in range(levels)])
    sums = np.zeros(3)
    for place, prompt in enumerate(pictures.prompts):
        if isinstance(subject, str):
            contexts, _ = plain_contexts(base, prompt, subject)
            rows = torch.zeros(levels, dtype=torch.int64)
        else:
            contexts, _ = identity_contexts(base, prompt, subject)
            rows = torch.tensor([subject.stage_of(int(timestep)) for timestep in timesteps])
        x0 = pictures.latents[place].expand(levels, -1, -1, -1)
        generator = torch.Generator().manual_seed(place)
        noise = torch.randn(x0.shape, generator=generator).to(base.device)
        alpha_bar = base.alphas_cumprod[timesteps].to(base.device)
        predicted = staged.predict(
            noised(x0, noise, alpha_bar).to(base.dtype),
            timesteps.to(base.device),
            staged.project_kv(contexts),
            rows.to(base.device),
        )
        target = prediction_target(x0, noise, alpha_bar, base.description.prediction_type)
        error = (predicted.float() - target).square().mean(dim=(0, 1))  # [h, w]
        face = pictures.face[place]
        sums += [
            float(error.mean()),
            float((error * face).sum() / face.sum()),
            float((error * (1 - face)).sum() / (1 - face).sum()),
        ]
    return Explained(*(sums / len(pictures.prompts)))


def mean_explained(each: Sequence[Explained]) -> Explained:
    """The mean over people."""
    return Explained(*np.mean([(one.whole, one.face, one.rest) for one in each], axis=0))
