"""Parametrizations: what is learned of a person, and how the vectors follow from it.

Each has `named_parameters()` for the optimizer and `vectors()`, differentiable float32 [stages, sides, vectors, width].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

from faceid_core.diffusion.base import BaseModel, TextTower

from .method import Method
from .random import seeded_generator
from .starts import name_basis

_HEADS = 8


class Parametrization(Protocol):
    """One text encoder's vectors of one person."""

    def vectors(self) -> torch.Tensor:
        """The vectors that follow from the parameters."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimizer moves; names that end in `own` are a stage's and side's own part."""
        ...


class Parts(nn.Module):
    """Numbers [stages, sides, ...] as each one's own part, and if wanted a part common to all.

    Adam gives a part that every sample moves the benefit of every sample; the own parts add what differs.
    Attributes `own` and `shared` are the parameters; `shared` is None without a common part.
    """

    def __init__(self, begin: torch.Tensor, stages: int, sides: int, common: bool):
        super().__init__()
        own = torch.zeros_like(begin) if common else begin
        self.own = nn.Parameter(own.repeat(stages, sides, *[1] * begin.ndim))
        self.shared = nn.Parameter(begin.clone()) if common else None

    def forward(self) -> torch.Tensor:
        """The sum of the parts, [stages, sides, ...]."""
        return self.own if self.shared is None else self.own + self.shared


class Free(nn.Module):
    """The vectors themselves."""

    def __init__(self, start: torch.Tensor, stages: int, sides: int, common: bool):
        super().__init__()
        self.parts = Parts(start, stages, sides, common)

    def vectors(self) -> torch.Tensor:
        """See `Parametrization`."""
        return self.parts()


class NameBasis(nn.Module):
    """Coefficients of the principal components of known names, from the mean name.

    Source: Celeb-Basis section 3.2; coefficients are learned directly instead of by an MLP on face features.
    """

    def __init__(self, start: torch.Tensor, basis: torch.Tensor, stages: int, sides: int, common: bool):
        super().__init__()
        self.start, self.basis = start, basis  # [vectors, width], [vectors, components, width]
        self.coefficients = Parts(start.new_zeros(basis.shape[:2]), stages, sides, common)

    def vectors(self) -> torch.Tensor:
        """See `Parametrization`."""
        return self.start + torch.einsum("spvc,vcw->spvw", self.coefficients(), self.basis)


class Block(nn.Module):
    """A transformer block that maps the start to all vectors: two attention layers and a GEGLU.

    It begins at the start exactly, since its last layer begins at zero.

    Source: ProSpect's public code; residual from the start and zero last layer are a reconstruction.
    """

    def __init__(self, start: torch.Tensor, stages: int, sides: int, seed: tuple[str | int, ...]):
        super().__init__()
        width = start.shape[1]
        self.start, self.shape = start, (stages, sides)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeded_generator(*seed).initial_seed())
            self.block = BasicTransformerBlock(
                width, _HEADS, width // _HEADS, cross_attention_dim=width, double_self_attention=True
            )
            self.last = nn.Linear(width, stages * sides * width)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.to(start.device)

    def vectors(self) -> torch.Tensor:
        """See `Parametrization`."""
        made = self.last(self.block(self.start[None]))[0]  # [vectors, stages * sides * width]
        return self.start + made.unflatten(1, (*self.shape, -1)).permute(1, 2, 0, 3)


def make_parametrization(
    base: BaseModel, tower: TextTower, start: torch.Tensor, method: Method, seed: int
) -> Parametrization:
    """One text encoder's parametrization as the method asks, beginning at `start` [vectors, width]."""
    stages, sides = method.stages, method.sides
    if method.parametrization == "block":
        return Block(start, stages, sides, (seed, "block", tower.name))
    if method.parametrization == "name_basis":
        return NameBasis(start, name_basis(base, tower, method), stages, sides, method.common)
    return Free(start, stages, sides, method.common)
