"""StagedUNet: a U-Net whose cross-attention has separate contexts for keys and values, chosen per sample.

Contexts are projected once (`project`), whatever the number of samples or sampling steps that use them; a
call (`predict`) names for each sample the row of the projection that it uses. So one batch mixes stages,
prompts and people. docs/design/personalisation.md says why the U-Net's own arguments are not enough.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from faceid_core.diffusion.cpu_attention import attention_output

from .observers import Observer, Projection, Projections


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
        self._observers: tuple[Observer, ...] = ()
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
        observers: tuple[Observer, ...] = (),
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
