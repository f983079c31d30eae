"""Attention in bfloat16 on a CPU through float32, because PyTorch's fused kernel is slow in bfloat16.

docs/design/speed.md has the figures. In other formats and on other devices PyTorch chooses its kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch.nn import functional as F


def needs_float32(dtype: torch.dtype, device: torch.device | str) -> bool:
    """Whether attention in this format on this device is computed in float32."""
    return dtype == torch.bfloat16 and torch.device(device).type == "cpu"


def attention_output(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """softmax(Q K^T / sqrt(d)) V for tensors [b, heads, n, d], in the tensors' own format."""
    if needs_float32(query.dtype, query.device):
        attended = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
        return attended.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value)


class SelfAttention:
    """diffusers' attention processor protocol for plain self-attention, through `attention_output`."""

    def __call__(
        self, attn: Attention, hidden_states: torch.Tensor, *rest: Any, **options: Any
    ) -> torch.Tensor:
        """Attend hidden states [n, tokens, channels] to themselves; other arguments of the protocol are refused."""
        if rest or any(value is not None for value in options.values()) or hidden_states.ndim != 3:
            return AttnProcessor2_0()(attn, hidden_states, *rest, **options)
        # hidden_states: [b, pixels, channels]
        query, key, value = (
            layer(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # [b, heads, pixels, d]
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        merged = attention_output(query, key, value).transpose(1, 2).flatten(2)  # [b, pixels, heads * d]
        return attn.to_out[1](attn.to_out[0](merged)) / attn.rescale_output_factor
