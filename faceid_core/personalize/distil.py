"""Distilling: one set of vectors whose plain conditioning stands in for a person's stages, keys and values.

The network is frozen and is its own teacher: on noised pictures that the person's own tokens drew, the prediction with
the single context is drawn towards the prediction with the staged contexts. Neither photo nor scorer is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi

import torch

from faceid_core.diffusion.base import BaseModel
from faceid_core.errors import ConfigurationError

from .attention import StagedUNet
from .conditioning import (
    TokenizedPrompt,
    both_sides,
    encode_vectors,
    identity_contexts,
    start_vectors,
    tokenize,
)
from .contexts import Contexts, concatenated, stacked
from .export import single_context
from .losses import noised
from .random import normal, seeded_generator
from .stages import stage_of
from .tokens import IdentityTokens

Progress = Callable[[str, int, int], object]
_LEVELS = 10  # noise levels at which a view is compared when the loss is measured
_NEAR, _LOOKED_AT = 0.5, 4  # the mean is a start if it loses less than this on so many of the views


def silent(what: str, done: int, total: int) -> None:
    """Progress for callers who want none."""


@dataclass(frozen=True)
class View:
    """A picture of the person that the tokens drew.

    Attributes:
        prompt: with `V*`.
        latent: float32 [c, side, side].
    """

    prompt: str
    latent: torch.Tensor


@dataclass(frozen=True)
class Distilled:
    """What distilling made.

    Attributes:
        tokens: one stage, K = V.
        mean: the mean over stages and sides, which is what could be exported without learning.
        lost_by_mean, lost: share of the person's effect on the prediction that the mean and the result lose on
            held-out views: ||single - staged||^2 / ||class word - staged||^2; 1 is no better than the class word.
        seconds: of computing.
    """

    tokens: IdentityTokens
    mean: IdentityTokens
    lost_by_mean: float
    lost: float
    steps: int
    seconds: float

    def notes(self) -> dict[str, float | int]:
        """The measured loss, for a file's metadata."""
        return {
            "distil_steps": self.steps,
            "lost_share_by_mean": round(self.lost_by_mean, 6),
            "lost_share": round(self.lost, 6),
        }


def distil(
    base: BaseModel,
    tokens: IdentityTokens,
    views: Sequence[View],
    held_out: Sequence[View],
    *,
    steps: int = 300,
    batch: int = 8,
    learning_rate: float = 0.02,
    vectors: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Distilled:
    """Learn vectors whose single context predicts as the staged contexts do.

    It starts at the class word, or at the mean over stages and sides where that is near already. Vectors that differ
    much between stages and sides have a mean that is nobody, from which the optimizer hardly finds out.

    Args:
        views: pictures to learn from.
        held_out: pictures, of other prompts and noise, on which the loss is measured.
        steps: of AdamW, with a rate that falls to 0 as a cosine; 0 takes the mean over stages and sides.
        vectors: token positions of the result; as many as the tokens' by default.
        progress: called with what is under way, how many steps of it are done, and of how many.

    Raises:
        BaseMismatch: tokens of another base model.
        ConfigurationError: no views, or numbers that cannot be used.
    """
    tokens.require_base(base.description.digest)
    if not views or not held_out or steps < 0 or batch < 1 or (vectors is not None and vectors < 1):
        raise ConfigurationError(
            f"distilling needs views to learn from ({len(views)}) and others to measure on ({len(held_out)}), "
            f"steps of at least 0 ({steps}), a batch of at least 1 ({batch}) and vectors of at least 1 ({vectors})"
        )
    began = time.perf_counter()
    teacher = _Teacher(base, tokens, progress)
    count = vectors or tokens.vectors
    mean = single_context(tokens, _mean_vectors(tokens, count))
    lost_by_mean = teacher.lost_share(held_out, mean, seed, "measuring the mean, views")
    result, lost = mean, lost_by_mean
    if steps:
        near = teacher.lost_share(views[:_LOOKED_AT], mean, seed, "looking for a start, views") < _NEAR
        student = {
            name: (mean.tensors[name][0, 0] if near else start_vectors(tower, tokens.class_word, count))
            .to(base.device)
            .clone()
            .requires_grad_()
            for name, tower in base.towers.items()
        }
        optimizer = torch.optim.AdamW(list(student.values()), lr=learning_rate, weight_decay=0.0)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * 0.5 * (1 + cos(pi * step / steps))
            optimizer.zero_grad()
            teacher.loss(views, student, batch, seed, step).backward()
            optimizer.step()
            progress("distilling, steps", step + 1, steps)
        result = single_context(tokens, student)
        lost = teacher.lost_share(held_out, result, seed, "measuring the result, views")
    seconds = time.perf_counter() - began
    return Distilled(result, mean, lost_by_mean, lost, steps, seconds)


class _Teacher:
    """The frozen network with the person's staged contexts, one set for each prompt."""

    def __init__(self, base: BaseModel, tokens: IdentityTokens, progress: Progress = silent):
        self.base, self.tokens, self.staged = base, tokens, StagedUNet.of(base)
        self._progress = progress
        self._contexts: dict[str, Contexts] = {}
        self._tokenized: dict[tuple[str, int], dict[str, TokenizedPrompt]] = {}

    def loss(
        self, views: Sequence[View], student: Mapping[str, torch.Tensor], batch: int, seed: int, step: int
    ) -> torch.Tensor:
        """Mean squared distance of student and teacher on `batch` views at stratified noise levels."""
        generator = seeded_generator("distil", seed, step)
        chosen = [views[int(i)] for i in torch.randint(len(views), (batch,), generator=generator)]
        total = self.base.description.training_timesteps
        # One timestep in each of `batch` equal parts, so that every stage is seen in its share.
        timesteps = ((torch.arange(batch) + torch.rand(batch, generator=generator)) * total / batch).long()
        noise = torch.randn(batch, *views[0].latent.shape, generator=generator)
        latents = self._noised(chosen, noise, timesteps)
        with torch.no_grad():
            contexts = [
                self._staged_context(view.prompt, int(t)) for view, t in zip(chosen, timesteps, strict=True)
            ]  # each [2, length, context width]
            target = self._predict(latents, timesteps, stacked(contexts))
        single = concatenated([self._single_context(view.prompt, student) for view in chosen])
        found = self._predict(latents, timesteps, both_sides(single))
        return (found.float() - target.float()).square().mean()

    @torch.no_grad()
    def lost_share(self, views: Sequence[View], student: IdentityTokens, seed: int, what: str = "") -> float:
        """||student - teacher||^2 / ||class word - teacher||^2 over views and noise levels."""
        total = self.base.description.training_timesteps
        timesteps = torch.tensor([int((level + 0.5) * total / _LEVELS) for level in range(_LEVELS)])
        word = {
            name: start_vectors(tower, self.tokens.class_word, self.tokens.vectors)
            for name, tower in self.base.towers.items()
        }
        vectors = {name: each[0, 0].to(self.base.device) for name, each in student.tensors.items()}
        lost = effect = 0.0
        for place, view in enumerate(views):
            self._progress(what, place, len(views))
            noise = normal((_LEVELS, *view.latent.shape), "distil", "held out", seed, place)
            latents = self._noised([view] * _LEVELS, noise, timesteps)
            contexts = stacked([self._staged_context(view.prompt, int(t)) for t in timesteps])
            target = self._predict(latents, timesteps, contexts).float()
            for name, each in (("student", vectors), ("word", word)):
                one = both_sides(self._single_context(view.prompt, each))
                single = one.map(lambda part: part.expand(_LEVELS, *part.shape[1:]))
                distance = float((self._predict(latents, timesteps, single).float() - target).square().sum())
                lost, effect = (lost + distance, effect) if name == "student" else (lost, effect + distance)
        self._progress(what, len(views), len(views))
        return lost / max(effect, 1e-12)

    def _noised(self, views: Sequence[View], noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        x0 = torch.stack([view.latent for view in views]).to(self.base.device)
        alpha_bar = self.base.alphas_cumprod[timesteps].to(self.base.device)
        return noised(x0, noise.to(self.base.device), alpha_bar).to(self.base.dtype)

    def _predict(self, latents: torch.Tensor, timesteps: torch.Tensor, contexts: Contexts) -> torch.Tensor:
        """The prediction of each sample with its own contexts [b, 2 (K, V), length, context width]."""
        rows = torch.arange(len(latents), device=self.base.device)
        projections = self.staged.project_sides(contexts)
        return self.staged.predict(latents, timesteps.to(self.base.device), projections, rows)

    def _staged_context(self, prompt: str, timestep: int) -> Contexts:
        if prompt not in self._contexts:
            self._contexts[prompt] = identity_contexts(self.base, prompt, self.tokens)[0]
        return self._contexts[prompt][stage_of(timestep, self.tokens.boundaries)]

    def _single_context(self, prompt: str, vectors: Mapping[str, torch.Tensor]) -> Contexts:
        """The plain context [1, length, context width] with vectors [vectors, width] in the person's place."""
        count = len(next(iter(vectors.values())))
        prompts = self._tokenized.setdefault((prompt, count), {})
        if not prompts:
            prompts |= {name: tokenize(tower, prompt, count) for name, tower in self.base.towers.items()}
        return encode_vectors(self.base, prompts, {name: each[None] for name, each in vectors.items()})


def _mean_vectors(tokens: IdentityTokens, count: int) -> dict[str, torch.Tensor]:
    """The mean over stages and sides; wanted vectors beyond the tokens' repeat the last, fewer keep the first."""
    means = {name: each.mean(dim=(0, 1)) for name, each in tokens.tensors.items()}  # [vectors, width]
    return {
        name: torch.cat([mean, mean[-1:].expand(max(count - len(mean), 0), -1)])[:count]
        for name, mean in means.items()
    }
