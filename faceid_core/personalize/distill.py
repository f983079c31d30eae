"""Distillation: one set of vectors whose single context replaces a person's stages, keys and values.

The network is frozen and is its own teacher: on noised pictures that the person's own tokens drew, the prediction with
the single context is trained towards the prediction with the staged contexts. It uses neither photo nor scorer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi

import torch

from faceid_core.config.method import stage_of
from faceid_core.config.presets import MINIATURE_SPREAD
from faceid_core.diffusion.base import BaseModel
from faceid_core.errors import ConfigurationError
from faceid_core.progress import ProgressCallback, no_progress

from .attention import StagedUNet
from .conditioning import (
    Contexts,
    TokenizedPrompt,
    class_word_embeddings,
    concatenated,
    encode_vectors,
    expand_kv,
    name_word_embeddings,
    stacked,
    tokenize,
)
from .export import single_context
from .objective import noised
from .seeded_draws import normal, seeded_generator
from .subjects import identity_contexts
from .tokens import MIXTURE, IdentityTokens
from .vocabulary import vocabulary_of

_LEVELS = 10  # noise levels at which a view is compared when the loss is measured
# The mean is the initial embedding if it loses less than this share on so many of the views.
_NEAR, _VIEWS_FOR_INITIAL = 0.5, 4


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
    """The result of a distillation.

    Attributes:
        tokens: one stage, K = V.
        mean: the mean over stages, keys and values, which could be exported without learning.
        lost_by_mean, lost: share of the person's effect on the prediction that the mean and the result lose on
            held-out views: ||single - staged||^2 / ||class word - staged||^2; 1 is no better than the class word.
        seconds: that the distillation took.
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
            "distill_steps": self.steps,
            "lost_share_by_mean": round(self.lost_by_mean, 6),
            "lost_share": round(self.lost, 6),
        }


def distill(
    base: BaseModel,
    tokens: IdentityTokens,
    views: Sequence[View],
    held_out: Sequence[View],
    *,
    steps: int = 300,
    batch: int = 8,
    learning_rate: float = 0.02 / MINIATURE_SPREAD,
    vectors: int | None = None,
    seed: int = 0,
    progress: ProgressCallback = no_progress,
) -> Distilled:
    """Learn vectors whose single context predicts as the staged contexts do.

    The vectors begin at the class word, or at the mean over stages, keys and values where that is near already. Vectors
    that differ much have a mean that resembles no person, and the optimizer hardly leaves it.

    Args:
        views: pictures to learn from.
        held_out: pictures, of other prompts and noise, on which the loss is measured.
        steps: of AdamW, with a rate that falls to 0 as a cosine; 0 takes the mean over stages, keys and values.
        learning_rate: in units of the spread of the model's token embeddings.
        vectors: token positions of the result; as many as the tokens' by default.
        progress: called with the name of the present part of the work, its steps done, and its steps in all.

    Raises:
        BaseMismatch: tokens of another base model.
        ConfigurationError: no views, or numbers that cannot be used.
    """
    tokens.require_base(base.description.digest)
    if not views or not held_out or steps < 0 or batch < 1 or (vectors is not None and vectors < 1):
        raise ConfigurationError(
            f"distillation needs views to learn from ({len(views)}) and others to measure on ({len(held_out)}), "
            f"steps of at least 0 ({steps}), a batch of at least 1 ({batch}) and vectors of at least 1 ({vectors})"
        )
    began = time.perf_counter()
    teacher = _Teacher(base, tokens, progress)
    count = vectors or tokens.vectors
    mean = single_context(tokens, _mean_vectors(base, tokens, count))
    lost_by_mean = teacher.lost_share(held_out, mean, seed, "measuring the mean, views")
    result, lost = mean, lost_by_mean
    if steps:
        near = teacher.lost_share(views[:_VIEWS_FOR_INITIAL], mean, seed, "initial embedding, views") < _NEAR
        student = {
            name: (
                mean.tensors[name][0, 0] if near else class_word_embeddings(tower, tokens.class_word, count)
            )
            .to(base.device)
            .clone()
            .requires_grad_()
            for name, tower in base.towers.items()
        }
        optimizer = torch.optim.AdamW(
            [
                {"params": [each], "unit": vocabulary_of(base.towers[name]).spread}
                for name, each in student.items()
            ],
            weight_decay=0.0,
        )
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group["unit"] * 0.5 * (1 + cos(pi * step / steps))
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

    def __init__(self, base: BaseModel, tokens: IdentityTokens, progress: ProgressCallback = no_progress):
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
        found = self._predict(latents, timesteps, expand_kv(single))
        return (found.float() - target.float()).square().mean()

    @torch.no_grad()
    def lost_share(self, views: Sequence[View], student: IdentityTokens, seed: int, what: str = "") -> float:
        """||student - teacher||^2 / ||class word - teacher||^2 over views and noise levels."""
        total = self.base.description.training_timesteps
        timesteps = torch.tensor([int((level + 0.5) * total / _LEVELS) for level in range(_LEVELS)])
        word = {
            name: class_word_embeddings(tower, self.tokens.class_word, self.tokens.vectors)
            for name, tower in self.base.towers.items()
        }
        vectors = {name: each[0, 0].to(self.base.device) for name, each in student.tensors.items()}
        lost = effect = 0.0
        for index, view in enumerate(views):
            self._progress(what, index, len(views))
            noise = normal((_LEVELS, *view.latent.shape), "distil", "held out", seed, index)
            latents = self._noised([view] * _LEVELS, noise, timesteps)
            contexts = stacked([self._staged_context(view.prompt, int(t)) for t in timesteps])
            target = self._predict(latents, timesteps, contexts).float()
            for name, each in (("student", vectors), ("word", word)):
                one = expand_kv(self._single_context(view.prompt, each))
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
        projected = self.staged.project_kv(contexts)
        return self.staged.predict(latents, timesteps.to(self.base.device), projected, rows)

    def _staged_context(self, prompt: str, timestep: int) -> Contexts:
        if prompt not in self._contexts:
            self._contexts[prompt] = identity_contexts(self.base, prompt, self.tokens)[0]
        return self._contexts[prompt][stage_of(timestep, self.tokens.boundaries)]

    def _single_context(self, prompt: str, vectors: Mapping[str, torch.Tensor]) -> Contexts:
        """The plain context [1, length, context width] with vectors [vectors, width] at the person's positions."""
        count = len(next(iter(vectors.values())))
        prompts = self._tokenized.setdefault((prompt, count), {})
        if not prompts:
            prompts |= {name: tokenize(tower, prompt, count) for name, tower in self.base.towers.items()}
        return encode_vectors(self.base, prompts, {name: each[None] for name, each in vectors.items()})


def _mean_vectors(base: BaseModel, tokens: IdentityTokens, count: int) -> dict[str, torch.Tensor]:
    """The mean over stages, keys and values; more vectors than the tokens' repeat the last, fewer keep the first.

    Of a mixture of known names, their words' embeddings in the mean mixture.
    """
    if tokens.is_mixture:
        weights = tokens.tensors[MIXTURE].mean(dim=(0, 1, 2))  # [names]
        means = {
            name: torch.tensordot(weights.to(base.device), name_word_embeddings(tower, tokens.names), dims=1)
            for name, tower in base.towers.items()
        }
    else:
        means = {name: each.mean(dim=(0, 1)) for name, each in tokens.tensors.items()}  # [vectors, width]
    return {
        name: torch.cat([mean, mean[-1:].expand(max(count - len(mean), 0), -1)])[:count]
        for name, mean in means.items()
    }
