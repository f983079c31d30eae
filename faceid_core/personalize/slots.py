"""Slots: the state of each person in training, the random draws of a person's step, and the checks of its health.

A check looks at one slot only, so that nothing of another person in the pass changes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from faceid_core.config.method import Method, stage_of, stage_range
from faceid_core.diffusion.base import BaseModel

from .parametrization import Parametrization
from .seeded_draws import chance, integer, normal
from .sphere import RiemannianDescent

# Limits of the checks: ours, far from what healthy training comes to (docs/design/personalization.md has what it does).
# A prediction of zeros has a loss of about 1, the variance of noise or velocity.
_LARGEST_LOSS = 3.0
_LOSS_WINDOW = 10  # steps whose median counts: one step's loss depends on its timesteps
# The longest vector, in lengths of the vocabulary's longest.
_LONGEST_VECTOR = 100.0
# The share of its first attention that the person must keep.
_LEAST_ATTENTION = 0.01


@dataclass(frozen=True)
class TrainingPhoto:
    """One person's photo, ready for training.

    Attributes:
        name: the caller's name for the person; it takes no part in any draw.
        photo_digest: sha256 of the photo; every random draw depends on it.
        image: uint8 [h, w, 3] RGB, the aligned square crop.
        mask: float32 [h, w], 1 on the face.
        valid: bool [h, w], False where the crop reaches beyond the photo.
        class_word: what the person is, for instance "person".
        original_pixels: side of the crop in the photo, before it was resampled to `image`; SDXL reads it, so that a
            small face does not teach it blur. 0: not known, taken as the picture's own.
    """

    name: str
    photo_digest: str
    image: np.ndarray
    mask: np.ndarray
    valid: np.ndarray
    class_word: str = "person"
    original_pixels: int = 0


@dataclass
class Slot:
    """A person in training.

    Attributes:
        latents: float32 [2, c, side, side], the photo and its mirror image.
        weights: float32 [2, side, side], the diffusion loss's weight of each latent cell.
        masks: float32 [2, side, side], the face's share of each latent cell.
        initial: text encoder -> the initial embedding, float32 [vectors, width].
        learned: text encoder -> what is learned, and how the vectors follow from it.
        reference: the class word's row among the objective's reference prompts.
        attention_before: float32 [h, w], attention on the person's positions before the first step.
        attempt: 1, or 2 after a restart; first_fault: what ended the first attempt.
        seconds: this person's share of the time spent so far.
    """

    photo: TrainingPhoto
    latents: torch.Tensor
    weights: torch.Tensor
    masks: torch.Tensor
    initial: Mapping[str, torch.Tensor]
    learned: Mapping[str, Parametrization]
    reference: int
    optimizer: torch.optim.Optimizer
    attention_before: torch.Tensor
    attempt: int = 1
    first_fault: str = ""
    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    plateau: Plateau = field(default_factory=lambda: Plateau())

    def vectors(self) -> dict[str, torch.Tensor]:
        """Text encoder -> the present vectors, float32 [stages, kv, vectors, width], differentiable."""
        return {name: learned.vectors() for name, learned in self.learned.items()}


@dataclass
class Plateau:
    """Notices that a loss has stopped falling.

    Attributes:
        best: the lowest loss so far. best_step: its step.
    """

    best: float = math.inf
    best_step: int = 0

    def reached(self, loss: float, step: int, *, patience: int, tolerance: float) -> bool:
        """Whether the loss has not fallen by its share `tolerance` for `patience` steps."""
        if loss < self.best * (1 - tolerance):
            self.best, self.best_step = loss, step
        return step - self.best_step >= patience


@dataclass(frozen=True)
class Samples:
    """One person's samples of one step.

    Attributes:
        x0: [m, c, side, side] latents. weight, mask: [m, side, side]. noise: [m, c, side, side].
        timesteps: int64 [m]. stages: int64 [m], the stage of each timestep.
    """

    x0: torch.Tensor
    weight: torch.Tensor
    mask: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    stages: torch.Tensor


def make_optimizer(learned: Mapping[str, Parametrization], method: Method) -> torch.optim.Optimizer:
    """A person's own optimizer, so that moments and step count are not shared with another person.

    A group's `rate_ratio` is its rate as a ratio of the method's: the unit of its text encoder's parametrization, and
    with a shared vector the stages' own parts have a ratio of their own besides.
    """
    groups = []
    for is_own, ratio in ((False, 1.0), (True, method.stage_learning_rate_ratio)):
        for made in learned.values():
            parameters = [
                parameter
                for name, parameter in made.named_parameters()
                if (method.shared_vector and name.endswith("own")) is is_own
            ]
            if parameters:
                groups.append({"params": parameters, "rate_ratio": made.rate_unit * ratio})
    if method.optimizer == "riemannian":
        return RiemannianDescent(groups, lr=method.learning_rate)
    return torch.optim.AdamW(
        groups,
        lr=method.learning_rate,
        betas=(method.beta1, method.beta2),
        weight_decay=method.weight_decay,
    )


def learning_rate(method: Method, step: int) -> float:
    """The method's learning rate at a step, counted from 0."""
    if step < method.warmup_steps:
        return method.learning_rate * (step + 1) / method.warmup_steps
    if method.schedule == "cosine":
        done = (step - method.warmup_steps) / (method.steps - method.warmup_steps)
        return method.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return method.learning_rate


def loss_weights(photo: TrainingPhoto, side: int, masked: bool) -> torch.Tensor:
    """The diffusion loss's weight of each cell, for photo and mirror image: float32 [2, side, side].

    Cells beyond the photo's edge have weight 0: the crop has only a filling there.
    """
    valid = resized_area(photo.valid, side)
    return with_mirror(valid * resized_area(photo.mask, side) if masked else valid)


def with_mirror(area: torch.Tensor) -> torch.Tensor:
    """An area [h, w] and its mirror image, [2, h, w]."""
    return torch.stack([area, area.flip(-1)])


def resized_area(area: np.ndarray, side: int) -> torch.Tensor:
    """An area such as a mask, [h, w], as the covered share of side x side cells, float32 [side, side]."""
    whole = torch.from_numpy(np.ascontiguousarray(area, dtype=np.float32))[None, None]
    return F.interpolate(whole, size=(side, side), mode="area")[0, 0]


def draw_samples(
    slot: Slot, base: BaseModel, method: Method, boundaries: tuple[int, ...], seed: int
) -> Samples:
    """A person's samples of the slot's current step: photo or mirror image, timestep, noise.

    Stratified timesteps go round the stages, beginning at a stage drawn for the person: over the steps each
    stage has the same number of samples (give or take one) and m samples hit min(m, stages) stages. Stages that
    lie outside the method's timestep range are left out.

    Returns:
        m = `samples_per_step` samples.
    """
    photo, step, count = slot.photo.photo_digest, slot.step, method.samples_per_step
    total = base.description.training_timesteps
    flips = [
        int(chance(method.flip_probability, seed, photo, "flip", step, sample)) for sample in range(count)
    ]
    ranges = [allowed_range(method, total)] * count
    if method.timestep_sampling == "stratified":
        trained = trained_stages(method, boundaries, total)
        first = integer(0, len(trained), seed, photo, "first stage") + step * count
        ranges = [trained[(first + sample) % len(trained)] for sample in range(count)]
    timesteps = [integer(*ranges[sample], seed, photo, "timestep", step, sample) for sample in range(count)]
    shape = base.description.latent_shape
    noise = torch.stack([normal(shape, seed, photo, "noise", step, sample) for sample in range(count)])
    return Samples(
        x0=slot.latents[flips],  # [m, c, side, side]
        weight=slot.weights[flips],  # [m, side, side]
        mask=slot.masks[flips],  # [m, side, side]
        noise=noise,  # [m, c, side, side]
        timesteps=torch.tensor(timesteps),
        stages=torch.tensor([stage_of(timestep, boundaries) for timestep in timesteps]),
    )


def empty_samples(base: BaseModel, method: Method) -> Samples:
    """The samples of an empty slot: zeros, so that the shape of the work never changes."""
    count, shape = method.samples_per_step, base.description.latent_shape
    zeros, ones = torch.zeros(count, *shape), torch.ones(count, *shape[1:], device=base.device)
    no_timesteps = torch.zeros(count, dtype=torch.int64)
    return Samples(
        x0=zeros.to(base.device),
        weight=ones,
        mask=ones,
        noise=zeros,
        timesteps=no_timesteps,
        stages=no_timesteps,
    )


def allowed_range(method: Method, timesteps: int) -> tuple[int, int]:
    """The half-open range of training timesteps that the method trains on."""
    low, high = (round(share * timesteps) for share in method.timestep_range)
    low = min(low, timesteps - 1)
    return low, max(high, low + 1)


def trained_stages(method: Method, boundaries: tuple[int, ...], timesteps: int) -> list[tuple[int, int]]:
    """The part of each stage that the method trains on, as half-open ranges; empty ones are left out."""
    low, high = allowed_range(method, timesteps)
    cut = [stage_range(stage, boundaries, timesteps) for stage in range(len(boundaries) + 1)]
    return [(max(low, a), min(high, b)) for a, b in cut if max(low, a) < min(high, b)]


def distinct_stages(stages: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The stages that a person's samples use, padded to a fixed number, and each sample's index among them.

    Args:
        stages: int64 [m].
        count: the fixed number; at least the number of distinct stages.

    Returns:
        int64 [count] rising, the last repeated as padding; int64 [m].
    """
    found, indices = torch.unique(stages, sorted=True, return_inverse=True)
    return torch.cat([found, found[-1:].expand(count - len(found))]), indices


def step_fault(
    loss_diffusion: float, loss_attention: float, gradients: Mapping[str, torch.Tensor]
) -> str | None:
    """Why a step cannot be taken: a loss or gradient that is not finite; else None."""
    if not np.isfinite(loss_diffusion):
        return f"the diffusion loss is {loss_diffusion}; look at the photo, or lower the learning rate"
    if not np.isfinite(loss_attention):
        return f"the attention loss is {loss_attention}; lower the learning rate"
    if not all(bool(gradient.isfinite().all()) for gradient in gradients.values()):
        return "the gradient is not finite; lower the learning rate or use float32"
    return None


def loss_fault(curve: Sequence[Mapping[str, float]]) -> str | None:
    """Why training cannot go on: the last steps' median diffusion loss is worse than predicting zeros; else None."""
    if len(curve) < _LOSS_WINDOW:
        return None
    recent = statistics.median(row["loss_diffusion"] for row in curve[-_LOSS_WINDOW:])
    if recent <= _LARGEST_LOSS:
        return None
    return f"the diffusion loss has grown to {recent:.1f}, where predicting nothing gives 1; lower the learning rate"


def vector_fault(vectors: Mapping[str, torch.Tensor], vocabulary: Mapping[str, float]) -> str | None:
    """Why vectors cannot be used: one is far too long, or not a number; else None.

    Args:
        vectors: text encoder -> [..., width].
        vocabulary: text encoder -> length of the longest embedding of its vocabulary.
    """
    for name, each in vectors.items():
        longest = float(each.detach().norm(dim=-1).max()) / vocabulary[name]
        if not longest <= _LONGEST_VECTOR:  # also when it is not a number
            return (
                f"a vector of {name} is {longest:.0f} times as long as the longest of the vocabulary "
                f"(limit {_LONGEST_VECTOR:.0f}); lower the learning rate"
            )
    return None


def attention_fault(before: np.ndarray, after: np.ndarray) -> str | None:
    """Why the result cannot be used: the person's attention map died, and such tokens change no picture; else None.

    Args:
        before, after: [h, w], attention on the person's positions before the first and after the last step.
    """
    share = float(after.mean()) / max(float(before.mean()), 1e-12)
    if share >= _LEAST_ATTENTION:
        return None
    return (
        f"the attention on the person fell to {share:.1%} of what it was (limit {_LEAST_ATTENTION:.0%}), so the tokens "
        "change no picture; lower the learning rate"
    )
