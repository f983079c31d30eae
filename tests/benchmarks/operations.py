"""The number of floating-point operations that a piece of work does, by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FUSED_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def count_operations(work: Callable[[], object]) -> Counter[str]:
    """Operations by kind: a multiplication and an addition count as two.

    Matrix products, convolutions and attention are counted, element-wise work is not: it is what a matrix-product
    ceiling is no measure of. PyTorch's own counter does not know the CPU's fused attention, which is added here.
    """
    counter = FlopCounterMode(
        display=False,
        custom_mapping={_FUSED: fused_attention, _FUSED_BACKWARD: fused_attention_backward},
    )
    with counter:
        work()
    return Counter({_name(kind): count for kind, count in counter.get_flop_counts()["Global"].items()})


def fused_attention(query, key, value, *_args, **_more) -> int:
    """Two products: scores and output. Shapes: query [b, heads, q, d], key and value [b, heads, k, d]."""
    return _product(query, key) + _product(query, value)


def fused_attention_backward(_gradient, query, key, value, *_args, **_more) -> int:
    """Five products: the scores again, the gradients of weights, values, queries and keys."""
    return 3 * _product(query, key) + 2 * _product(query, value)


def _product(query, other) -> int:
    batch, heads, rows, _ = query
    return 2 * batch * heads * rows * other[2] * other[3]


def _name(kind: object) -> str:
    """aten.convolution_backward.default as "convolution_backward"."""
    return str(kind).removeprefix("aten.").split(".")[0]
