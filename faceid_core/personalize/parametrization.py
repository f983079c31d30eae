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
from .seeded_draws import seeded_generator

_HEADS = 8


class Parametrization(Protocol):
    """One text encoder's vectors of one person."""

    def vectors(self) -> torch.Tensor:
        """The vectors that follow from the parameters."""
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
    """The vectors themselves."""

    def __init__(self, initial: torch.Tensor, stages: int, kv: int, shared: bool):
        super().__init__()
        self.parts = SharedAndOwn(initial, stages, kv, shared)

    def vectors(self) -> torch.Tensor:
        """See `Parametrization`."""
        return self.parts()


class NameBasis(nn.Module):
    """Coefficients of the principal components of known names, from the mean name.

    Source: Celeb-Basis section 3.2; coefficients are learned directly instead of by an MLP on face features.
    """

    def __init__(self, initial: torch.Tensor, basis: torch.Tensor, stages: int, kv: int, shared: bool):
        super().__init__()
        self.initial, self.basis = initial, basis  # [vectors, width], [vectors, components, width]
        self.coefficients = SharedAndOwn(initial.new_zeros(basis.shape[:2]), stages, kv, shared)

    def vectors(self) -> torch.Tensor:
        """See `Parametrization`."""
        return self.initial + torch.einsum("spvc,vcw->spvw", self.coefficients(), self.basis)


class Block(nn.Module):
    """A transformer block that maps the initial embedding to all vectors: two attention layers and a GEGLU.

    Its vectors begin at the initial embedding exactly, since its last layer begins at zero.

    Source: ProSpect's public code; the residual and the zero last layer are a reconstruction.
    """

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


def make_parametrization(
    base: BaseModel, tower: TextTower, initial: torch.Tensor, method: Method, seed: int
) -> Parametrization:
    """One text encoder's parametrization as the method chooses it.

    Args:
        initial: the initial embedding, float32 [vectors, width], at which all vectors begin.
        seed: of the block's random weights.
    """
    stages, kv = method.stages, method.kv_count
    if method.parametrization == "block":
        return Block(initial, stages, kv, (seed, "block", tower.name))
    if method.parametrization == "name_basis":
        return NameBasis(initial, name_basis(base, tower, method), stages, kv, method.shared_vector)
    return Free(initial, stages, kv, method.shared_vector)
