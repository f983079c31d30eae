"""Guards: when a person's training has gone wrong, in words that say what to do.

Each looks at one slot only, so that nobody else in the pass notices. The limits are ours, far from what healthy
training comes to (docs/design/personalization.md has what it does).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import numpy as np
import torch

# A prediction of nothing has a loss of about 1, the variance of noise or velocity.
LARGEST_LOSS = 3.0
_WINDOW = 10  # steps whose median counts: one step's loss depends on its timesteps
# The longest vector, in lengths of the vocabulary's longest.
LONGEST_VECTOR = 100.0
# The share of its first attention that the person's must keep.
LEAST_ATTENTION = 0.01


def step_fault(
    loss_diffusion: float, loss_attention: float, gradients: Mapping[str, torch.Tensor]
) -> str | None:
    """Why a step cannot be taken: a loss or gradient that is not finite; else None."""
    if not np.isfinite(loss_diffusion):
        return f"the diffusion loss is {loss_diffusion}; look at the photo, or lower the learning rate"
    if not np.isfinite(loss_attention):
        return f"the attention loss is {loss_attention}; lower the learning rate"
    if not all(bool(gradient.isfinite().all()) for gradient in gradients.values()):
        return "the gradient is not finite; lower the learning rate or use float32"
    return None


def loss_fault(curve: list[dict[str, float]]) -> str | None:
    """Whether the diffusion loss has run off: its median over the last steps is worse than predicting nothing."""
    if len(curve) < _WINDOW:
        return None
    recent = statistics.median(row["loss_diffusion"] for row in curve[-_WINDOW:])
    if recent <= LARGEST_LOSS:
        return None
    return f"the diffusion loss has grown to {recent:.1f}, where predicting nothing gives 1; lower the learning rate"


def vector_fault(vectors: Mapping[str, torch.Tensor], vocabulary: Mapping[str, float]) -> str | None:
    """Whether a vector has run off, or is no number.

    Args:
        vectors: text encoder -> [..., width].
        vocabulary: text encoder -> length of the longest embedding of its vocabulary.
    """
    for name, each in vectors.items():
        longest = float(each.detach().norm(dim=-1).max()) / vocabulary[name]
        if not longest <= LONGEST_VECTOR:  # also when it is not a number
            return (
                f"a vector of {name} is {longest:.0f} times as long as the longest of the vocabulary "
                f"(limit {LONGEST_VECTOR:.0f}); lower the learning rate"
            )
    return None


def attention_fault(before: np.ndarray, after: np.ndarray) -> str | None:
    """Whether the person's attention map died: vectors that nothing looks at change no picture.

    Args:
        before, after: [h, w], attention on the person's positions before the first and after the last step.
    """
    share = float(after.mean()) / max(float(before.mean()), 1e-12)
    if share >= LEAST_ATTENTION:
        return None
    return (
        f"the attention on the person fell to {share:.1%} of what it was (limit {LEAST_ATTENTION:.0%}), so the tokens "
        "change no picture; lower the learning rate"
    )
