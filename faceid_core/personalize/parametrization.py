"""Parametrizations: what is learned of a person, and how the vectors follow from it.

Each has `named_parameters()` for the optimizer and `vectors()`, differentiable float32 [stages, kv, vectors, width];
kv is 2 (K and V), or 1 for both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

from faceid_core.config.method import Method
from faceid_core.diffusion.base import BaseModel, TextTower

from .initial_embeddings import name_basis
from .name_prior import NamePrior
from .seeded_draws import seeded_generator
from .vocabulary import Vocabulary

_HEADS = 8


class Parametrization(Protocol):
    """One text encoder's vectors of one person."""

    @property
    def rate_unit(self) -> float:
        """What a learning rate of 1 is for these parameters."""
        ...

    def vectors(self) -> torch.Tensor:
        """The vectors that follow from the parameters."""
        ...

    def penalty(self) -> torch.Tensor | None:
        """What the prior adds to the loss, differentiable; None without a prior."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimizer moves; names that end in `own` are the stages' own parts."""
        ...


class SharedAndOwn(nn.Module):
    """Numbers [stages, kv, ...] as each one's own part, and if wanted plus a part that all of them share.

    Every sample moves the shared part, and only the samples of a stage move its own parts; these add what differs.
    Attributes `own` and `shared` are the parameters; `shared` is None without a shared part.
    """

    def __init__(self, initial: torch.Tensor, stages: int, kv: int, shared: bool):
        super().__init__()
        own = torch.zeros_like(initial) if shared else initial
        self.own = nn.Parameter(own.repeat(stages, kv, *[1] * initial.ndim))
        self.shared = nn.Parameter(initial.clone()) if shared else None

    def forward(self) -> torch.Tensor:
        """The sum of the parts, [stages, kv, ...]."""
        return self.own if self.shared is None else self.own + self.shared


class Free(nn.Module):
    """The vectors themselves.

    Attributes:
        rate_unit: the spread of the text encoder's vocabulary, so that learning rates carry over to other models.
    """

    def __init__(self, initial: torch.Tensor, stages: int, kv: int, shared: bool, spread: float):
        super().__init__()
        self.rate_unit = spread
        self.parts = SharedAndOwn(initial, stages, kv, shared)

    def vectors(self) -> torch.Tensor:
        """See `Parametrization`."""
        return self.parts()

    def penalty(self) -> None:
        """None: there is no prior."""


class Directions(nn.Module):
    """Unit vectors times a fixed length; the optimizer keeps them on the sphere (`sphere.py`).

    Source: Directional Textual Inversion, arXiv 2512.13672.
    """

    rate_unit = 1.0  # radians

    def __init__(self, initial: torch.Tensor, stages: int, kv: int, length: float):
        super().__init__()
        unit = initial / initial.norm(dim=-1, keepdim=True)
        self.length = length
        self.directions = nn.Parameter(unit.repeat(stages, kv, 1, 1))

    def vectors(self) -> torch.Tensor:
        """See `Parametrization`."""
        return self.length * self.directions

    def penalty(self) -> None:
        """None: there is no prior."""


class OfLength(nn.Module):
    """Another parametrization's vectors, brought to a length or, if bounded, shortened to it where they are longer.

    Source: the fixed length, Directional Textual Inversion (arXiv 2512.13672), here for every parametrization; the bound
    is ours.
    """

    def __init__(self, inner: Parametrization, length: float, bounded: bool):
        super().__init__()
        self.inner, self.length, self.bounded = inner, length, bounded
        self.rate_unit = inner.rate_unit

    def vectors(self) -> torch.Tensor:
        """See `Parametrization`."""
        made = self.inner.vectors()
        share = self.length / made.norm(dim=-1, keepdim=True)
        return made * (share.clamp(max=1.0) if self.bounded else share)

    def penalty(self) -> None:
        """None: there is no prior."""


class NameBasis(nn.Module):
    """Coefficients of the principal components of known names, from the mean name.

    Source: Celeb-Basis section 3.2; coefficients are learned directly instead of by an MLP on face features.
    """

    rate_unit = 1.0  # a typical difference between names

    def __init__(self, initial: torch.Tensor, basis: torch.Tensor, stages: int, kv: int, shared: bool):
        super().__init__()
        self.initial, self.basis = initial, basis  # [vectors, width], [vectors, components, width]
        self.coefficients = SharedAndOwn(initial.new_zeros(basis.shape[:2]), stages, kv, shared)

    def vectors(self) -> torch.Tensor:
        """See `Parametrization`."""
        return self.initial + torch.einsum("spvc,vcw->spvw", self.coefficients(), self.basis)

    def penalty(self) -> None:
        """None: there is no prior."""


class NameMixture(nn.Module):
    """Weights of known names, whose contexts a person combines, with a Gaussian prior from the photo.

    The weights are the names' mean plus coefficients of the principal components of their contexts. Parameters are the
    coefficients' distance from what the prior expects of this photo, in its standard deviations, so that the prior's
    penalty is the sum of squares; each stage's own part has a smaller deviation.

    Reconstruction: neither the paper nor its relatives have this. Celeb-Basis combines names' input embeddings.
    """

    rate_unit = 1.0  # a deviation of the prior

    def __init__(
        self,
        prior: NamePrior,
        expected: torch.Tensor,
        *,
        stages: int,
        kv: int,
        shared: bool,
        weight: float,
        stage_deviation: float,
    ):
        super().__init__()
        self.prior, self.expected = prior, expected  # expected: [components]
        self.weight, self.stage_deviation = weight, stage_deviation
        self.distance = SharedAndOwn(torch.zeros_like(expected)[None], stages, kv, shared)

    def vectors(self) -> torch.Tensor:
        """The weights of the names, float32 [stages, kv, 1, names]; each row sums to 1."""
        coefficients = self.expected + self.prior.deviation * self.distance()  # [stages, kv, 1, components]
        return 1 / len(self.prior.names) + coefficients @ self.prior.basis

    def penalty(self) -> torch.Tensor:
        """Half the squared distance from the expectation, in deviations, times the prior's weight."""
        own, shared = self.distance.own, self.distance.shared
        if shared is None:
            return self.weight * own.square().sum() / (2 * own.shape[0] * own.shape[1])
        return self.weight * (shared.square().sum() + (own / self.stage_deviation).square().sum()) / 2


class Block(nn.Module):
    """A transformer block that maps the initial embedding to all vectors: two attention layers and a GEGLU.

    Its vectors begin at the initial embedding exactly, since its last layer begins at zero.

    Source: ProSpect's public code; the residual and the zero last layer are a reconstruction.
    """

    rate_unit = 1.0

    def __init__(self, initial: torch.Tensor, stages: int, kv: int, seed: tuple[str | int, ...]):
        super().__init__()
        width = initial.shape[1]
        self.initial, self.shape = initial, (stages, kv)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeded_generator(*seed).initial_seed())
            self.block = BasicTransformerBlock(
                width, _HEADS, width // _HEADS, cross_attention_dim=width, double_self_attention=True
            )
            self.last = nn.Linear(width, stages * kv * width)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.to(initial.device)

    def vectors(self) -> torch.Tensor:
        """See `Parametrization`."""
        made = self.last(self.block(self.initial[None]))[0]  # [vectors, stages * kv * width]
        return self.initial + made.unflatten(1, (*self.shape, -1)).permute(1, 2, 0, 3)

    def penalty(self) -> None:
        """None: there is no prior."""


def mixture_parametrization(prior: NamePrior, latents: torch.Tensor, method: Method) -> NameMixture:
    """A person's mixture of known names, which begins at what the prior expects of the photo.

    Args:
        latents: float32 [2, c, side, side], the photo and its mirror image.
    """
    return NameMixture(
        prior,
        prior.expected(latents),
        stages=method.stages,
        kv=method.kv_count,
        shared=method.shared_vector,
        weight=method.prior_weight,
        stage_deviation=method.prior_stage_deviation,
    )


def make_parametrization(
    base: BaseModel, tower: TextTower, initial: torch.Tensor, method: Method, seed: int, vocabulary: Vocabulary
) -> Parametrization:
    """One text encoder's parametrization as the method chooses it.

    Args:
        initial: the initial embedding, float32 [vectors, width], at which all vectors begin, or at its direction where
            the method sets their length.
        seed: of the block's random weights.
        vocabulary: of the text encoder.
    """
    if method.optimizer == "riemannian":
        return Directions(initial, method.stages, method.kv_count, vocabulary.mean_length)
    made = _of_any_length(base, tower, initial, method, seed, vocabulary.spread)
    if method.vector_length == "free":
        return made
    if method.vector_length == "bounded":
        return OfLength(made, vocabulary.longest, bounded=True)
    return OfLength(made, vocabulary.mean_length, bounded=False)


def _of_any_length(
    base: BaseModel, tower: TextTower, initial: torch.Tensor, method: Method, seed: int, spread: float
) -> Parametrization:
    stages, kv = method.stages, method.kv_count
    if method.parametrization == "block":
        return Block(initial, stages, kv, (seed, "block", tower.name))
    if method.parametrization == "name_basis":
        return NameBasis(initial, name_basis(base, tower, method), stages, kv, method.shared_vector)
    return Free(initial, stages, kv, method.shared_vector, spread)
