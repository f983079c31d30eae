"""Lengths and directions: descent along the unit sphere, the prior towards a direction, and turning towards one.

Source of descent and prior: Directional Textual Inversion (arXiv 2512.13672), its project page and public code. Only a
vector's direction is learned, by Riemannian gradient descent with steps of one length, under a von Mises-Fisher prior.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

_SHORTEST = 1e-12  # a tangent gradient below it is none


def tangent(gradient: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The part of a gradient that is tangent to the unit sphere, g - <g, v> v.

    Args:
        gradient, v: [..., width]; v has length 1.
    """
    return gradient - (gradient * v).sum(dim=-1, keepdim=True) * v


def retracted_step(v: torch.Tensor, gradient: torch.Tensor, rate: float) -> torch.Tensor:
    """A step downhill along the sphere: v - rate * g / |g| for the tangent gradient g, brought back to length 1.

    The step turns a vector by arctan(rate) radians, however long its gradient is; without a tangent gradient it stays.

    Args:
        v: [..., width], of length 1.
        gradient: of the loss in v, [..., width].
    """
    g = tangent(gradient, v)
    length = g.norm(dim=-1, keepdim=True)  # [..., 1]
    moved = v - rate * g / length.clamp_min(_SHORTEST)
    moved = moved / moved.norm(dim=-1, keepdim=True)
    return torch.where(length > _SHORTEST, moved, v)


def prior_gradient(vectors: torch.Tensor, towards: torch.Tensor) -> torch.Tensor:
    """The gradient in the vectors of -<mu, e / |e|>, the negative logarithm of a von Mises-Fisher prior of weight 1.

    It has no part along a vector, so that only directions are held.

    Args:
        vectors: e, [..., width]. towards: [..., width], whose direction is mu.

    Returns:
        [..., width], -(mu - <mu, v> v) / |e| with v = e / |e|.
    """
    lengths = vectors.norm(dim=-1, keepdim=True)
    mu = towards / towards.norm(dim=-1, keepdim=True)
    return -tangent(mu.expand_as(vectors), vectors / lengths) / lengths


def adjusted(
    vectors: torch.Tensor, towards: torch.Tensor, length_share: float, direction_share: float
) -> torch.Tensor:
    """Vectors whose length and direction are brought nearer to another's.

    The length goes a share of the way, and the direction is turned by a share of the angle between the two.

    Args:
        vectors: [..., width]. towards: [..., width], not zero.
        length_share, direction_share: 0 leaves it as it is, 1 makes it that of `towards`.

    Source: test-time embedding adjustment, Bui et al., arXiv 2506.22685, and its public code.
    """
    own, other = (each.norm(dim=-1, keepdim=True) for each in (vectors, towards))  # [..., 1]
    v, c = vectors / own, towards / other
    across = tangent(c, v)  # [..., width], as long as the sine of the angle
    sine = across.norm(dim=-1, keepdim=True)
    angle = direction_share * torch.atan2(sine, (v * c).sum(dim=-1, keepdim=True))
    turned = angle.cos() * v + angle.sin() * across / sine.clamp_min(_SHORTEST)
    return torch.lerp(own, other.expand_as(own), length_share) * turned


class RiemannianDescent(torch.optim.Optimizer):
    """Gradient descent of unit vectors along the sphere, each by a step of one length. It keeps no state."""

    def __init__(self, params: Iterable[Any], lr: float):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move every parameter [..., width] that has a gradient; no closure is called."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.copy_(retracted_step(parameter, parameter.grad, group["lr"]))
