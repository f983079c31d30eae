"""Cross-attention with separate contexts for keys and values, chosen per sample, and the recorder of its maps.

Contexts are projected once (`StagedUNet.project`), whatever the number of samples or sampling steps that use them; a
call (`StagedUNet.predict`) names for each sample the row of the projection that it uses. So one batch mixes stages,
prompts and people. docs/design/personalization.md says why the U-Net's own arguments are not enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from math import isqrt
from typing import Any, Protocol

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch.nn import functional as F

from faceid_core.diffusion.base import BaseModel
from faceid_core.diffusion.cpu_attention import attention_output

from .conditioning import Contexts


@dataclass(frozen=True)
class LayerKV:
    """One cross-attention layer's keys and values of n contexts: each [n, heads, length, d]."""

    keys: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True)
class ProjectedContexts:
    """Contexts as a U-Net reads them, row by row.

    Attributes:
        layers: cross-attention layer -> keys and values of n contexts.
        pooled: [n, pooled width], the pooled text embeddings that SDXL reads beside the contexts; else None.
    """

    layers: Mapping[str, LayerKV]
    pooled: torch.Tensor | None = None


class Recorder(Protocol):
    """Reads each cross-attention layer's queries and keys once per call of a StagedUNet."""

    def record(self, layer: str, query: torch.Tensor, key: torch.Tensor) -> None:
        """Read one layer; query [b, heads, pixels, d], key [b, heads, length, d]."""
        ...


class StagedUNet:
    """A U-Net called with staged contexts. Outside of `predict` and `patched` the U-Net has its own processors."""

    def __init__(self, unet: UNet2DConditionModel, sizes: Sequence[int] | None = None):
        """Find the cross-attention layers.

        Args:
            unet: a U-Net, or a ControlNet, whose layers are the same.
            sizes: SDXL's micro-conditioning where a call gives none (see `picture_sizes`); None: it has none.
        """
        self.unet = unet
        self.layers: dict[str, Attention] = {
            name: module
            for name, module in unet.named_modules()
            if getattr(module, "is_cross_attention", False)
        }
        for name, layer in self.layers.items():
            _require_plain(name, layer)
        self._sizes = None if sizes is None else torch.tensor([list(sizes)])
        self._rows: torch.Tensor | None = None
        self._projected = ProjectedContexts({})
        self._recorders: tuple[Recorder, ...] = ()
        self._processors = {name: _StagedProcessor(name, self) for name in self.layers}

    @classmethod
    def of(cls, base: BaseModel) -> StagedUNet:
        """The U-Net of a base model; pictures have its own size unless a call says otherwise."""
        about = base.description
        return cls(base.unet, picture_sizes((about.resolution, about.resolution)) if about.pooled_width else None)

    def project(
        self, key_contexts: torch.Tensor, value_contexts: torch.Tensor, pooled: torch.Tensor | None = None
    ) -> ProjectedContexts:
        """Every layer's keys and values of contexts.

        Args:
            key_contexts, value_contexts: [n, length, context width].
            pooled: [n, pooled width], where the U-Net reads it.
        """
        layers = {
            name: LayerKV(
                keys=_by_head(layer.to_k(key_contexts), layer.heads),  # [n, heads, length, d]
                values=_by_head(layer.to_v(value_contexts), layer.heads),  # [n, heads, length, d]
            )
            for name, layer in self.layers.items()
        }
        return ProjectedContexts(layers, pooled)

    def project_kv(self, contexts: Contexts) -> ProjectedContexts:
        """Keys and values of contexts [n, kv, length, context width]; kv is K and V, or one context for both.

        A prompt has one pooled embedding. It is the one of V: it says what is painted, not where to look.
        """
        pooled = None if contexts.pooled is None else contexts.pooled[:, -1]
        return self.project(contexts.states[:, 0], contexts.states[:, -1], pooled)

    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        projected: ProjectedContexts,
        rows: torch.Tensor,
        *,
        recorders: tuple[Recorder, ...] = (),
        sizes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The U-Net's prediction.

        Args:
            latents: [b, channels, height, width].
            timesteps: [b].
            projected: n contexts.
            rows: int64 [b], which of the n contexts each sample uses.
            recorders: read the queries and keys of every cross-attention layer.
            sizes: int64 [b, 6], each sample's picture sizes for SDXL (see `picture_sizes`); None: the model's own.

        Returns:
            [b, channels, height, width].
        """
        added = None
        if self._sizes is not None:
            sizes = self._sizes.expand(len(latents), -1) if sizes is None else sizes
            assert projected.pooled is not None, "contexts of SDXL's encoders have pooled embeddings"
            added = {
                "text_embeds": projected.pooled.index_select(0, rows),  # [b, pooled width]
                "time_ids": sizes.to(latents.device, latents.dtype),  # [b, 6]
            }
        with self.patched(projected, rows, recorders):
            # The processors do not read this context; the U-Net only requires that there is one.
            unused = latents.new_zeros(len(latents), 1, self.unet.config.cross_attention_dim)
            return self.unet(
                latents,
                timesteps,
                encoder_hidden_states=unused,
                added_cond_kwargs=added,
                return_dict=False,
            )[0]

    @contextmanager
    def patched(
        self, projected: ProjectedContexts, rows: torch.Tensor, recorders: tuple[Recorder, ...] = ()
    ) -> Generator[None]:
        """While it lasts, every cross-attention layer reads the rows' keys and values; arguments as of `predict`."""
        own = {name: layer.processor for name, layer in self.layers.items()}
        self._rows, self._projected, self._recorders = rows, projected, recorders
        try:
            for name, layer in self.layers.items():
                layer.set_processor(self._processors[name])
            yield
        finally:
            for name, layer in self.layers.items():
                layer.set_processor(own[name])
            self._rows, self._projected, self._recorders = None, ProjectedContexts({}), ()

    def attend(self, layer: str, query: torch.Tensor) -> torch.Tensor:
        """Attention of one layer's queries [b, heads, pixels, d] to its samples' contexts; the same shape."""
        assert self._rows is not None, "a layer is patched only while there are rows"
        kv = self._projected.layers[layer]
        keys = kv.keys.index_select(0, self._rows)  # [b, heads, length, d]
        values = kv.values.index_select(0, self._rows)  # [b, heads, length, d]
        for recorder in self._recorders:
            recorder.record(layer, query, keys)
        return attention_output(query, keys, values)  # [b, heads, pixels, d]


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


def concatenate_projected(parts: Sequence[ProjectedContexts]) -> ProjectedContexts:
    """Several projections one after another along their rows."""
    layers = {
        name: LayerKV(
            keys=torch.cat([each.layers[name].keys for each in parts]),
            values=torch.cat([each.layers[name].values for each in parts]),
        )
        for name in parts[0].layers
    }
    pooled = [each.pooled for each in parts if each.pooled is not None]
    return ProjectedContexts(layers, torch.cat(pooled) if pooled else None)


def attention_scores(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Q K^T / sqrt(d), float32 [b, heads, pixels, length]; arguments as of `attention_map`."""
    return torch.matmul(query.float() * query.shape[-1] ** -0.5, key.float().transpose(-1, -2))


def attention_map(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """A = softmax(Q K^T / sqrt(d)).

    Args:
        query: [b, heads, pixels, d].
        key: [b, heads, length, d].

    Returns:
        float32 [b, heads, pixels, length]; every pixel's row sums to 1.
    """
    return attention_scores(query, key).softmax(dim=-1)


@dataclass
class AttentionRecorder:
    """Records the attention on some positions, averaged over heads, layers and calls.

    Attributes:
        columns: float32 [r, length], 1 at the positions of interest of each recorded sample.
            They are the last r of a batch: guidance puts the unconditional ones first.
        shape: height and width of the latents.
    """

    columns: torch.Tensor
    shape: tuple[int, int]
    sums: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    counts: Counter[tuple[int, int]] = field(default_factory=Counter)

    def record(self, layer: str, query: torch.Tensor, key: torch.Tensor) -> None:
        """Add one layer's maps; query [b, heads, pixels, d], key [b, heads, length, d]."""
        with torch.no_grad():
            recorded = slice(len(query) - len(self.columns), None)
            maps = attention_map(query[recorded], key[recorded]).mean(dim=1)  # [r, pixels, length]
            chosen = torch.matmul(maps, self.columns[:, :, None])[..., 0]  # [r, pixels]
        shape = map_shape(chosen.shape[1], self.shape)
        self.sums[shape] = self.sums.get(shape, 0) + chosen.unflatten(1, shape)
        self.counts[shape] += 1

    def maps(self) -> torch.Tensor:
        """The mean over layers and calls, float32 [r, h, w] of the largest map."""
        largest = max(self.sums)
        resized = (
            F.interpolate(maps[:, None], size=largest, mode="bilinear", align_corners=False)[:, 0]
            for maps in self.sums.values()
        )
        total = reduce(torch.add, resized)
        return total / self.counts.total()


def map_shape(cells: int, latent: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an attention map: those of the latents, halved and rounded up by each lower level of a U-Net.

    Args:
        cells: of the map.
        latent: height and width of the latents.

    Raises:
        ValueError: no level has so many cells.
    """
    height, width = latent
    while height * width > cells and height * width > 1:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != cells:
        raise ValueError(f"no level of a U-Net on latents of {latent[0]} x {latent[1]} has {cells} cells")
    return height, width


def map_side(cells: int) -> int:
    """Side of the attention map of a square picture, as training has them."""
    side = isqrt(cells)
    if side * side != cells:
        raise ValueError(f"an attention map of {cells} cells is not square; people are learned from square pictures")
    return side


def picture_sizes(size: tuple[int, int], original: int | None = None) -> tuple[int, ...]:
    """SDXL's micro-conditioning of an uncropped picture: original height and width, crop, target height and width.

    Args:
        size: height and width of the picture, pixels.
        original: side before a square one was resampled to that; None: the same.

    Source: Podell et al. 2023, section 2.2; order as in diffusers' StableDiffusionXLPipeline._get_add_time_ids.
    """
    before = (original, original) if original else size
    return *before, 0, 0, *size


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
