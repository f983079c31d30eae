"""StagedUNet: a U-Net whose cross-attention has separate contexts for keys and values, chosen per sample.

Contexts are projected once (`project`), whatever the number of samples or sampling steps that use them; a
call (`predict`) names for each sample the row of the projection that it uses. So one batch mixes stages,
prompts and people. docs/design/personalisation.md says why the U-Net's own arguments are not enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch.nn import functional as F

from .losses import attention_loss, attention_map


@dataclass(frozen=True)
class Projection:
    """One layer's keys and values: each [n, heads, length, d]."""

    keys: torch.Tensor
    values: torch.Tensor


Projections = Mapping[str, Projection]


@dataclass
class Comparison:
    """Asks a call for L_attention against a reference; afterwards `loss()` has it.

    Attributes:
        projections: layer -> the reference contexts' projection (its keys are used).
        rows: int64 [b], the reference row of each sample.
        columns: int64 [n] positions compared, None for all.
        reduction: "sum" or "mean" over pixels and tokens.
        largest_side: layers with larger maps are left out.
    """

    projections: Projections
    rows: torch.Tensor
    columns: torch.Tensor | None
    reduction: str
    largest_side: int
    terms: list[torch.Tensor] = field(default_factory=list)

    def observe(self, layer: str, query: torch.Tensor, key: torch.Tensor) -> None:
        """Compare one layer's maps; query [b, heads, pixels, d], key [b, heads, length, d]."""
        if map_side(query.shape[2]) <= self.largest_side:
            reference = self.projections[layer].keys.index_select(0, self.rows)
            self.terms.append(
                attention_loss(query, key, reference, columns=self.columns, reduction=self.reduction)
            )

    def loss(self) -> torch.Tensor:
        """The mean over layers, float32 [b].

        Raises:
            ValueError: every layer's maps were too large.
        """
        if not self.terms:
            raise ValueError(
                f"no cross-attention map has a side of at most {self.largest_side} cells; raise the limit"
            )
        return torch.stack(self.terms).mean(dim=0)


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


class StagedUNet:
    """A U-Net called with staged contexts. Outside of `predict` the U-Net has its own processors."""

    def __init__(self, unet: UNet2DConditionModel):
        self.unet = unet
        self.layers: dict[str, Attention] = {
            name: module
            for name, module in unet.named_modules()
            if getattr(module, "is_cross_attention", False)
        }
        for name, layer in self.layers.items():
            _require_plain(name, layer)
        self._rows: torch.Tensor | None = None
        self._projections: Projections = {}
        self._observers: tuple[Comparison | Recording, ...] = ()
        self._processors = {name: _StagedProcessor(name, self) for name in self.layers}

    def project(self, key_contexts: torch.Tensor, value_contexts: torch.Tensor) -> dict[str, Projection]:
        """Every layer's keys and values of contexts.

        Args:
            key_contexts, value_contexts: [n, length, context width].
        """
        return {
            name: Projection(
                keys=_by_head(layer.to_k(key_contexts), layer.heads),
                values=_by_head(layer.to_v(value_contexts), layer.heads),
            )
            for name, layer in self.layers.items()
        }

    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        projections: Projections,
        rows: torch.Tensor,
        *,
        observers: tuple[Comparison | Recording, ...] = (),
    ) -> torch.Tensor:
        """The U-Net's prediction.

        Args:
            latents: [b, channels, side, side].
            timesteps: [b].
            projections: layer -> projection of n contexts.
            rows: int64 [b], which of the n contexts each sample uses.
            observers: what to compare or record on the way.

        Returns:
            [b, channels, side, side].
        """
        own = {name: layer.processor for name, layer in self.layers.items()}
        self._rows, self._projections, self._observers = rows, projections, observers
        try:
            for name, layer in self.layers.items():
                layer.set_processor(self._processors[name])
            # The processors do not look at this context; the U-Net only insists that there is one.
            unused = latents.new_zeros(len(latents), 1, self.unet.config.cross_attention_dim)
            return self.unet(latents, timesteps, encoder_hidden_states=unused, return_dict=False)[0]
        finally:
            for name, layer in self.layers.items():
                layer.set_processor(own[name])
            self._rows, self._projections, self._observers = None, {}, ()

    def attend(self, layer: str, query: torch.Tensor) -> torch.Tensor:
        """Attention of one layer's queries [b, heads, pixels, d] to its samples' contexts; the same shape."""
        projection = self._projections[layer]
        keys = projection.keys.index_select(0, self._rows)  # [b, heads, length, d]
        values = projection.values.index_select(0, self._rows)
        for observer in self._observers:
            observer.observe(layer, query, keys)
        return F.scaled_dot_product_attention(query, keys, values)


class _StagedProcessor:
    """diffusers' attention processor protocol for one cross-attention layer of a StagedUNet."""

    def __init__(self, name: str, staged: StagedUNet):
        self.name, self.staged = name, staged

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **_ignored: Any,
    ) -> torch.Tensor:
        # hidden_states: [b, pixels, channels]
        query = _by_head(attn.to_q(hidden_states), attn.heads)  # [b, heads, pixels, d]
        attended = self.staged.attend(self.name, query)
        merged = attended.transpose(1, 2).flatten(2)  # [b, pixels, heads * d]
        return attn.to_out[1](attn.to_out[0](merged)) / attn.rescale_output_factor


def map_side(pixels: int) -> int:
    """Side of a square attention map of so many cells."""
    side = isqrt(pixels)
    if side * side != pixels:
        raise ValueError(
            f"an attention map of {pixels} cells is not square; only square pictures are supported"
        )
    return side


def joined(projections: list[Projections]) -> dict[str, Projection]:
    """Several projections one after another along their rows."""
    return {
        name: Projection(
            keys=torch.cat([each[name].keys for each in projections]),
            values=torch.cat([each[name].values for each in projections]),
        )
        for name in projections[0]
    }


def _by_head(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """[n, length, heads * d] to [n, heads, length, d]."""
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)


def _require_plain(name: str, layer: Attention) -> None:
    """Refuse attention layers that do more than the arithmetic above."""
    extras = (
        "spatial_norm",
        "group_norm",
        "norm_cross",
        "norm_q",
        "norm_k",
        "add_k_proj",
        "residual_connection",
    )
    found = [extra for extra in extras if getattr(layer, extra, None)]
    if found:
        raise ValueError(
            f"cross-attention layer {name} uses {', '.join(found)}, which staged contexts do not cover"
        )
