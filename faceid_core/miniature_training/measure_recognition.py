"""Verification and identification figures of a recognizer, overall and by what the pictures show."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from faceid_core.miniature.concepts import ATTRIBUTES
from faceid_core.miniature_training.scorer_data import Renders


def equal_error_rate(same: np.ndarray, different: np.ndarray) -> tuple[float, float]:
    """The error rate at the threshold where false rejections are as frequent as false acceptances.

    Args:
        same: similarities of pairs of one person.
        different: similarities of pairs of two people.

    Returns:
        the error rate, and the threshold.
    """
    thresholds = np.quantile(np.concatenate([same, different]), np.linspace(0, 1, 4001))
    rejected = np.searchsorted(np.sort(same), thresholds) / len(same)
    accepted = 1 - np.searchsorted(np.sort(different), thresholds) / len(different)
    best = int(np.argmin(np.abs(rejected - accepted)))
    return float(rejected[best] + accepted[best]) / 2, float(thresholds[best])


def recognition(vectors: np.ndarray, owners: np.ndarray, *, gallery: int, seed: int = 0) -> dict[str, float]:
    """Verification and identification figures of unit vectors [n, d] that belong to owners [n].

    `rank1` is the share of pictures whose most similar gallery picture is its own person's. The gallery has one picture
    of each of `gallery` people, drawn again for every picture and never the picture itself.
    """
    similarity = vectors @ vectors.T
    alike = owners[:, None] == owners[None]
    upper = np.triu(np.ones_like(alike), 1)
    error, threshold = equal_error_rate(similarity[alike & upper], similarity[~alike & upper])
    rng = np.random.default_rng(seed)
    pictures_of = {owner: np.flatnonzero(owners == owner) for owner in np.unique(owners)}
    hits = []
    for probe, owner in enumerate(owners):
        others = rng.choice([name for name in pictures_of if name != owner], gallery - 1, replace=False)
        own = rng.choice([index for index in pictures_of[owner] if index != probe])
        shown = [own, *(rng.choice(pictures_of[name]) for name in others)]
        hits.append(similarity[probe, shown].argmax() == 0)
    return {
        "equal_error_rate": error,
        "threshold": threshold,
        "rank1": float(np.mean(hits)),
        "same_mean": float(similarity[alike & upper].mean()),
        "different_mean": float(similarity[~alike & upper].mean()),
    }


def kinds_of_pairs(renders: Renders, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Pairs of the pictures `rows` [n] by kind: masks bool [n, n] by framing and by attribute.

    A pair has an attribute if at least one of the two pictures shows it.
    """
    half, shown = renders.framing[rows] == 1, renders.attributes[rows]
    kinds = {
        "two close-ups": ~half[:, None] & ~half,
        "two half figures": half[:, None] & half,
        "one of each": half[:, None] ^ half,
    }
    return kinds | {name: shown[:, None, at] | shown[:, at] for at, name in enumerate(ATTRIBUTES)}


def error_by_kind(
    vectors: np.ndarray, owners: np.ndarray, kinds: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """The equal error rate among each kind's pairs, each with its own threshold.

    Args:
        vectors: unit vectors [n, d]; owners: [n].
        kinds: from `kinds_of_pairs`.
    """
    similarity = vectors @ vectors.T
    alike = owners[:, None] == owners[None]
    upper = np.triu(np.ones_like(alike), 1)
    return {
        name: equal_error_rate(similarity[alike & upper & pairs], similarity[~alike & upper & pairs])[0]
        for name, pairs in kinds.items()
    }
