"""The face-wise attention loss: how far a person's attention lies from a reference prompt's, or from the face's mask.

First the losses as pure functions in the paper's symbols, then the recorders that collect them layer by layer during a
pass of the U-Net (`ReferenceAttentionLoss`, `MaskAttentionLoss`). `Objective` adds them to the diffusion loss.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from .attention import attention_map, attention_scores, map_side

_UNET_PARTS = ("down", "mid", "up")


def attention_loss(
    query: torch.Tensor,
    key: torch.Tensor,
    reference_key: torch.Tensor,
    *,
    columns: torch.Tensor | None = None,
    reduction: str = "sum",
    space: str = "post_softmax",
    inside: torch.Tensor | None = None,
    person: torch.Tensor | None = None,
) -> torch.Tensor:
    """L_attention of each sample at one layer: squared distance of A_t from A_r, both from the same Q.

    Q is a constant: it depends on earlier layers' values, and this loss is to move keys only. (It also moves a part that
    keys and values share, as in the default preset.) A_r, the target, is a constant too.

    Args:
        query: [b, heads, pixels, d] of the training prompt's pass.
        key: [b, heads, length, d], K of the training prompt.
        reference_key: [b, heads, length, d], K of the reference prompt.
        columns: int64 [n] positions compared; None compares all.
        reduction: "sum" or "mean" over pixels and tokens; heads are averaged either way.
        space: "post_softmax" compares maps, "pre_softmax" the scores before it.
        inside: float32 [b, pixels]; if given, A_r of the `person` positions (int64 [vectors]) is multiplied by it.

    Returns:
        float32 [b].

    Source: arXiv 2402.00631 for the reference and lambda; post-softmax maps, the sum over pixels and tokens, the mean
    over heads, and the reference inside a mask are reconstructions.
    """
    compared = attention_map if space == "post_softmax" else attention_scores
    query = query.detach()
    with torch.no_grad():
        reference = compared(query, reference_key)  # A_r: [b, heads, pixels, length]
        if inside is not None:
            reference[..., person] *= inside[:, None, :, None]
    difference = compared(query, key) - reference  # A_t - A_r: [b, heads, pixels, length]
    if columns is not None:
        difference = difference.index_select(-1, columns)  # [b, heads, pixels, n]
    pixels, tokens = difference.shape[-2:]
    total = difference.square().sum(dim=(1, 2, 3)) / difference.shape[1]  # mean over heads: [b]
    return total / (pixels * tokens) if reduction == "mean" else total


def mask_attention_loss(attention: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """MSE(mask, A / max A) of each sample.

    Args:
        attention, mask: [b, pixels].

    Returns:
        float32 [b].

    Source: Break-A-Scene, section 3.3, as in its public code.
    """
    return (attention / attention.amax(dim=1, keepdim=True).clamp_min(1e-8) - mask).square().mean(dim=1)


def outside_share(attention: torch.Tensor, mask: torch.Tensor) -> float:
    """Share of an attention map that lies outside the face.

    Args:
        attention: [h, w], at least 0.
        mask: [h, w] of the same size, 0 to 1, 1 inside the face.
    """
    total = float(attention.sum())
    return float((attention * (1 - mask)).sum()) / total if total > 0 else 0.0


@dataclass
class ReferenceAttentionLoss:
    """Collects L_attention against a reference prompt during a pass; afterwards `loss()` gives it.

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
    parts: Collection[str] = _UNET_PARTS
    space: str = "post_softmax"
    mask: torch.Tensor | None = None
    person: torch.Tensor | None = None
    terms: list[torch.Tensor] = field(default_factory=list)

    def record(self, layer: str, query: torch.Tensor, key: torch.Tensor) -> None:
        """Compare one layer's maps; query [b, heads, pixels, d], key [b, heads, length, d]."""
        side = map_side(query.shape[2])
        if side > self.largest_side or layer.split("_")[0] not in self.parts:
            return
        inside = None if self.mask is None else _resized(self.mask, side).flatten(1)  # [b, pixels]
        self.terms.append(
            attention_loss(
                query,
                key,
                self.keys[layer].index_select(0, self.rows),  # [b, heads, length, d]
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
        _require_layers(self.terms, self.largest_side, self.parts)
        return torch.stack(self.terms).mean(dim=0)


@dataclass
class MaskAttentionLoss:
    """Collects the person's attention maps during a pass; afterwards `loss()` gives their distance from a mask.

    Attributes:
        mask: float32 [b, s, s].
        person: int64 [vectors], the person's positions, whose maps are added up.
        largest_side, parts: as of `ReferenceAttentionLoss`; of these layers only those with the largest maps count.
    """

    mask: torch.Tensor
    person: torch.Tensor
    largest_side: int
    parts: Collection[str] = _UNET_PARTS
    maps: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    def record(self, layer: str, query: torch.Tensor, key: torch.Tensor) -> None:
        """Keep one layer's map; query [b, heads, pixels, d], key [b, heads, length, d]."""
        side = map_side(query.shape[2])
        if side <= self.largest_side and layer.split("_")[0] in self.parts:
            maps = attention_map(query.detach(), key)[..., self.person]  # [b, heads, pixels, vectors]
            self.maps.setdefault(side, []).append(maps.mean(dim=1).sum(dim=-1))  # [b, pixels]

    def loss(self) -> torch.Tensor:
        """MSE(mask, A / max A), float32 [b].

        Raises:
            ValueError: no layer was compared.
        """
        _require_layers(self.maps, self.largest_side, self.parts)
        side = max(self.maps)
        mean = torch.stack(self.maps[side]).mean(dim=0)  # [b, pixels]
        return mask_attention_loss(mean, _resized(self.mask, side).flatten(1))


def _resized(mask: torch.Tensor, side: int) -> torch.Tensor:
    """A mask [b, s, s] as the covered share of side x side cells, [b, side, side]."""
    return F.interpolate(mask[:, None], size=(side, side), mode="area")[:, 0]


def _require_layers(found: Collection, largest_side: int, parts: Collection[str]) -> None:
    if not found:
        raise ValueError(
            f"no cross-attention map of the parts {', '.join(parts)} has a side of at most {largest_side} cells; "
            "raise attention_max_resolution or name more attention_layers"
        )
