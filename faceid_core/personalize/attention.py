"""StagedUNet: a U-Net whose cross-attention has separate contexts for keys and values, chosen per sample.

Contexts are projected once (`project`), whatever the number of samples or sampling steps that use them; a
call (`predict`) names for each sample the row of the projection that it uses. So one batch mixes stages,
prompts and people. docs/design/personalization.md says why the U-Net's own arguments are not enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention

from faceid_core.diffusion.base import BaseModel
from faceid_core.diffusion.cpu_attention import attention_output

from .contexts import Contexts
from .observers import Observer, Projection, Projections


class StagedUNet:
    """A U-Net called with staged contexts. Outside of `predict` and `lent` the U-Net has its own processors."""

    def __init__(self, unet: torch.nn.Module, sizes: Sequence[int] | None = None):
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
        self._projections = Projections({})
        self._observers: tuple[Observer, ...] = ()
        self._processors = {name: _StagedProcessor(name, self) for name in self.layers}

    @classmethod
    def of(cls, base: BaseModel) -> StagedUNet:
        """The U-Net of a base model; pictures have its own size unless a call says otherwise."""
        about = base.description
        return cls(base.unet, picture_sizes(about.resolution) if about.pooled_width else None)

    def project(
        self, key_contexts: torch.Tensor, value_contexts: torch.Tensor, pooled: torch.Tensor | None = None
    ) -> Projections:
        """Every layer's keys and values of contexts.

        Args:
            key_contexts, value_contexts: [n, length, context width].
            pooled: [n, pooled width], where the U-Net reads it.
        """
        layers = {
            name: Projection(
                keys=_by_head(layer.to_k(key_contexts), layer.heads),
                values=_by_head(layer.to_v(value_contexts), layer.heads),
            )
            for name, layer in self.layers.items()
        }
        return Projections(layers, pooled)

    def project_sides(self, contexts: Contexts) -> Projections:
        """Keys and values of contexts [n, sides (K, V, or one for both), length, context width].

        The pooled embedding is one for a context, and is the V side's: it says what is painted, not where to look.
        """
        pooled = None if contexts.pooled is None else contexts.pooled[:, -1]
        return self.project(contexts.states[:, 0], contexts.states[:, -1], pooled)

    def predict(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        projections: Projections,
        rows: torch.Tensor,
        *,
        observers: tuple[Observer, ...] = (),
        sizes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The U-Net's prediction.

        Args:
            latents: [b, channels, side, side].
            timesteps: [b].
            projections: of n contexts.
            rows: int64 [b], which of the n contexts each sample uses.
            observers: what to compare or record on the way.
            sizes: int64 [b, 6], each sample's picture sizes for SDXL (see `picture_sizes`); None: the usual ones.

        Returns:
            [b, channels, side, side].
        """
        added = None
        if self._sizes is not None:
            told = self._sizes.expand(len(latents), -1) if sizes is None else sizes
            added = {
                "text_embeds": projections.pooled.index_select(0, rows),
                "time_ids": told.to(latents.device, latents.dtype),
            }
        with self.lent(projections, rows, observers):
            # The processors do not look at this context; the U-Net only insists that there is one.
            unused = latents.new_zeros(len(latents), 1, self.unet.config.cross_attention_dim)
            return self.unet(
                latents,
                timesteps,
                encoder_hidden_states=unused,
                added_cond_kwargs=added,
                return_dict=False,
            )[0]

    @contextmanager
    def lent(
        self, projections: Projections, rows: torch.Tensor, observers: tuple[Observer, ...] = ()
    ) -> Iterator[None]:
        """While it lasts, every cross-attention layer reads the rows' projections; arguments as of `predict`."""
        own = {name: layer.processor for name, layer in self.layers.items()}
        self._rows, self._projections, self._observers = rows, projections, observers
        try:
            for name, layer in self.layers.items():
                layer.set_processor(self._processors[name])
            yield
        finally:
            for name, layer in self.layers.items():
                layer.set_processor(own[name])
            self._rows, self._projections, self._observers = None, Projections({}), ()

    def attend(self, layer: str, query: torch.Tensor) -> torch.Tensor:
        """Attention of one layer's queries [b, heads, pixels, d] to its samples' contexts; the same shape."""
        projection = self._projections.layers[layer]
        keys = projection.keys.index_select(0, self._rows)  # [b, heads, length, d]
        values = projection.values.index_select(0, self._rows)
        for observer in self._observers:
            observer.observe(layer, query, keys)
        return attention_output(query, keys, values)


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


def joined(projections: list[Projections]) -> Projections:
    """Several projections one after another along their rows."""
    layers = {
        name: Projection(
            keys=torch.cat([each.layers[name].keys for each in projections]),
            values=torch.cat([each.layers[name].values for each in projections]),
        )
        for name in projections[0].layers
    }
    pooled = None
    if projections[0].pooled is not None:
        pooled = torch.cat([each.pooled for each in projections])
    return Projections(layers, pooled)


def picture_sizes(resolution: int, original: int | None = None) -> tuple[int, ...]:
    """SDXL's micro-conditioning of a square, uncropped picture: original height and width, crop, target height and width.

    Args:
        resolution: side of the picture, pixels.
        original: side before it was resampled to that; None: the same.

    Source: Podell et al. 2023, section 2.2; order as in diffusers' StableDiffusionXLPipeline._get_add_time_ids.
    """
    side = original or resolution
    return side, side, 0, 0, resolution, resolution


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
