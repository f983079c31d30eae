"""Contexts: what the text encoders make of prompts, as the U-Net reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Contexts:
    """Contexts with the pooled text embeddings that belong to them; both have the same leading dimensions.

    Attributes:
        states: [..., length, context width], one vector for each token.
        pooled: [..., pooled width], one vector for the whole prompt, where the U-Net reads it (SDXL); else None.
    """

    states: torch.Tensor
    pooled: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Contexts:
        """The same change of leading dimensions for both."""
        return Contexts(change(self.states), None if self.pooled is None else change(self.pooled))

    def __getitem__(self, place) -> Contexts:
        return self.map(lambda each: each[place])

    def unflatten(self, *shape: int) -> Contexts:
        """The first dimension as several."""
        return self.map(lambda each: each.unflatten(0, shape))

    def zeros(self) -> Contexts:
        """Zeros of the same shapes."""
        return self.map(torch.zeros_like)


def side_by_side(encoded: Sequence[Contexts]) -> Contexts:
    """One text encoder's contexts beside another's, along the width; the pooled embedding is the last one's."""
    return Contexts(torch.cat([each.states for each in encoded], dim=-1), encoded[-1].pooled)


def stacked(contexts: Sequence[Contexts]) -> Contexts:
    """Several along a new first dimension."""
    pooled = None if contexts[0].pooled is None else torch.stack([each.pooled for each in contexts])
    return Contexts(torch.stack([each.states for each in contexts]), pooled)


def concatenated(contexts: Sequence[Contexts]) -> Contexts:
    """Several along their first dimension."""
    pooled = None if contexts[0].pooled is None else torch.cat([each.pooled for each in contexts])
    return Contexts(torch.cat([each.states for each in contexts]), pooled)


def blended(plain: Contexts, contexts: Contexts, shares: torch.Tensor) -> Contexts:
    """From the class word's contexts to the person's; exact at both ends.

    Args:
        plain: [1, ...] of the class word.
        contexts: [stages, 2, ...] of the person.
        shares: float [stages, 2], 0 (the class word) to 1 (the person).
    """

    def blend(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        weight = shares.to(end.dtype).reshape(*shares.shape, *[1] * (end.ndim - 2)).expand_as(end)
        return torch.lerp(start.expand_as(end), end, weight)

    pooled = None
    if contexts.pooled is not None:
        pooled = blend(plain.pooled, contexts.pooled)
    return Contexts(blend(plain.states, contexts.states), pooled)
