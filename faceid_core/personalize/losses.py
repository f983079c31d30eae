"""The terms of L = L_diffusion + lambda * L_attention as pure functions, named after the paper's symbols."""

from __future__ import annotations

import torch


def noised(x0: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise.

    Args:
        x0, noise: [b, c, h, w].
        alpha_bar: [b], the cumulative product of alphas at each sample's timestep.
    """
    alpha_bar = alpha_bar[:, None, None, None]
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def prediction_target(
    x0: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor, prediction_type: str
) -> torch.Tensor:
    """What the U-Net should predict, [b, c, h, w]: the noise, the velocity, or the clean latent.

    Source: v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0, Salimans and Ho 2022, appendix D.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return x0
    if prediction_type == "v_prediction":
        alpha_bar = alpha_bar[:, None, None, None]
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
    raise ValueError(f"prediction type {prediction_type!r} is unknown; use epsilon, v_prediction or sample")


def diffusion_loss(prediction: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """L_diffusion of each sample: the squared error's weighted mean over the latent.

    Args:
        prediction, target: [b, c, h, w].
        weight: [b, h, w], at least 0; all ones is the plain mean, a face mask divides by the face's area.

    Returns:
        float32 [b].

    Source: plain, Rombach et al. 2022; masked and normalized by area, Break-A-Scene, reconstruction here.
    """
    squared = (prediction.float() - target.float()).square().mean(dim=1)  # [b, h, w]
    return (squared * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp_min(1e-6)


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

    The queries are constants: they depend on earlier layers' values, and this loss is to move keys only. (A part that
    keys and values have in common, as in the default preset, it moves too.) So is A_r, the target.

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

    Source: arXiv 2402.00631 for reference and lambda; post-softmax maps, sum over pixels and tokens, mean
    over heads, and the reference inside a mask are reconstructions.
    """
    compared = attention_map if space == "post_softmax" else attention_scores
    query = query.detach()
    with torch.no_grad():
        reference = compared(query, reference_key)  # A_r: [b, heads, pixels, length]
        if inside is not None:
            reference[..., person] *= inside[:, None, :, None]
    difference = compared(query, key) - reference
    if columns is not None:
        difference = difference.index_select(-1, columns)
    pixels, tokens = difference.shape[-2:]
    total = difference.square().sum(dim=(1, 2, 3)) / difference.shape[1]  # [b]
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
