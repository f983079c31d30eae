"""Observers of cross-attention: what a call of StagedUNet compares or records beside its own arithmetic."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Protocol

import torch
from torch.nn import functional as F

from .losses import attention_loss, attention_map, mask_attention_loss


@dataclass(frozen=True)
class Projection:
    """One layer's keys and values: each [n, heads, length, d]."""

    keys: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True)
class Projections:
    """Contexts as a U-Net reads them, row by row.

    Attributes:
        layers: cross-attention layer -> keys and values of n contexts.
        pooled: [n, pooled width], the pooled text embeddings that SDXL reads beside the contexts; else None.
    """

    layers: Mapping[str, Projection]
    pooled: torch.Tensor | None = None


PARTS = ("down", "mid", "up")


class Observer(Protocol):
    """Sees each cross-attention layer's queries and keys once per call."""

    def observe(self, layer: str, query: torch.Tensor, key: torch.Tensor) -> None:
        """Look at one layer; query [b, heads, pixels, d], key [b, heads, length, d]."""
        ...


@dataclass
class Comparison:
    """Asks a call for L_attention against a reference; afterwards `loss()` has it.

    Attributes:
        keys: cross-attention layer -> keys of the reference contexts, [n, heads, length, d].
        rows: int64 [b], the reference row of each sample.
        columns: int64 [n] positions compared, None for all.
        reduction: "sum" or "mean" over pixels and tokens.
        largest_side: layers with larger maps are left out.
        parts: of the U-Net ("down", "mid", "up") whose layers are compared.
        space: "post_softmax" compares maps, "pre_softmax" their scores.
        mask: float32 [b, s, s]; if given, the reference of the `person` positions is 0 outside it.
        person: int64 [vectors], the person's positions; used with a mask.
    """

    keys: Mapping[str, torch.Tensor]
    rows: torch.Tensor
    columns: torch.Tensor | None
    reduction: str
    largest_side: int
    parts: Collection[str] = PARTS
    space: str = "post_softmax"
    mask: torch.Tensor | None = None
    person: torch.Tensor | None = None
    terms: list[torch.Tensor] = field(default_factory=list)

    def observe(self, layer: str, query: torch.Tensor, key: torch.Tensor) -> None:
        """Compare one layer's maps; query [b, heads, pixels, d], key [b, heads, length, d]."""
        side = map_side(query.shape[2])
        if side > self.largest_side or layer.split("_")[0] not in self.parts:
            return
        inside = None if self.mask is None else _at(self.mask, side).flatten(1)  # [b, pixels]
        self.terms.append(
            attention_loss(
                query,
                key,
                self.keys[layer].index_select(0, self.rows),
                columns=self.columns,
                reduction=self.reduction,
                space=self.space,
                inside=inside,
                person=self.person,
            )
        )

    def loss(self) -> torch.Tensor:
        """The mean over layers, float32 [b].

        Raises:
            ValueError: no layer was compared.
        """
        _require(self.terms, self.largest_side, self.parts)
        return torch.stack(self.terms).mean(dim=0)


@dataclass
class MaskComparison:
    """Asks a call for the distance of the person's attention from a mask; afterwards `loss()` has it.

    Attributes:
        mask: float32 [b, s, s].
        person: int64 [vectors], the person's positions, whose maps are added up.
        largest_side, parts: as of `Comparison`; of these layers only those with the largest maps count.
    """

    mask: torch.Tensor
    person: torch.Tensor
    largest_side: int
    parts: Collection[str] = PARTS
    maps: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    def observe(self, layer: str, query: torch.Tensor, key: torch.Tensor) -> None:
        """Keep one layer's map; query [b, heads, pixels, d], key [b, heads, length, d]."""
        side = map_side(query.shape[2])
        if side <= self.largest_side and layer.split("_")[0] in self.parts:
            maps = attention_map(query.detach(), key)[..., self.person]  # [b, heads, pixels, vectors]
            self.maps.setdefault(side, []).append(maps.mean(dim=1).sum(dim=-1))

    def loss(self) -> torch.Tensor:
        """MSE(mask, A / max A), float32 [b].

        Raises:
            ValueError: no layer was compared.
        """
        _require(self.maps, self.largest_side, self.parts)
        side = max(self.maps)
        mean = torch.stack(self.maps[side]).mean(dim=0)  # [b, pixels]
        return mask_attention_loss(mean, _at(self.mask, side).flatten(1))


@dataclass
class Recording:
    """Asks calls for the attention on some positions, averaged over heads, layers and calls.

    Attributes:
        columns: float32 [r, length], 1 at the positions of interest of each recorded sample.
            They are the last r of a batch: guidance puts the unconditional ones first.
    """

    columns: torch.Tensor
    sums: dict[int, torch.Tensor] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    def observe(self, layer: str, query: torch.Tensor, key: torch.Tensor) -> None:
        """Add one layer's maps; query [b, heads, pixels, d], key [b, heads, length, d]."""
        with torch.no_grad():
            recorded = slice(len(query) - len(self.columns), None)
            maps = attention_map(query[recorded], key[recorded]).mean(dim=1)  # [r, pixels, length]
            chosen = torch.matmul(maps, self.columns[:, :, None])[..., 0]  # [r, pixels]
        side = map_side(chosen.shape[1])
        self.sums[side] = self.sums.get(side, 0) + chosen.unflatten(1, (side, side))
        self.counts[side] = self.counts.get(side, 0) + 1

    def maps(self) -> torch.Tensor:
        """The mean over layers and calls, float32 [r, s, s] at the largest map's side s."""
        largest = max(self.sums)
        total = sum(
            F.interpolate(maps[:, None], size=(largest, largest), mode="bilinear", align_corners=False)[:, 0]
            for maps in self.sums.values()
        )
        return total / sum(self.counts.values())


def map_side(pixels: int) -> int:
    """Side of a square attention map of so many cells."""
    side = isqrt(pixels)
    if side * side != pixels:
        raise ValueError(
            f"an attention map of {pixels} cells is not square; only square pictures are supported"
        )
    return side


def _at(mask: torch.Tensor, side: int) -> torch.Tensor:
    """A mask [b, s, s] as the covered share of side x side cells."""
    return F.interpolate(mask[:, None], size=(side, side), mode="area")[:, 0]


def _require(found: Collection, largest_side: int, parts: Collection[str]) -> None:
    if not found:
        raise ValueError(
            f"no cross-attention map of the parts {', '.join(parts)} has a side of at most {largest_side} cells; "
            "raise attention_resolutions or name more attention_layers"
        )
