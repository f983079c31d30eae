"""What a text encoder's own words are like: how long their embeddings are, and how far they lie apart.

Base models differ in both by a factor of three and more, so that learning rates and lengths are told in these units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from faceid_core.diffusion.base import TextTower

_DIGITS = 4  # of the spread: on another device a sum may differ in the last bits, and a learning rate must not


@dataclass(frozen=True)
class Vocabulary:
    """The token embeddings of one text encoder in three numbers.

    Attributes:
        mean_length: mean Euclidean norm of an embedding; rows of zeros do not count.
        longest: norm of the longest.
        spread: root mean square of an embedding's components about the mean embedding's, to four digits.
    """

    mean_length: float
    longest: float
    spread: float


def vocabulary_of(tower: TextTower) -> Vocabulary:
    """The three numbers of a text encoder."""
    return vocabulary(tower.token_embedding.weight)


@torch.no_grad()
def vocabulary(embeddings: torch.Tensor) -> Vocabulary:
    """The three numbers of a table of token embeddings, [words, width].

    Source: mean length without zero rows, the public code of Directional Textual Inversion (arXiv 2512.13672); the
    spread as the unit of learning rates is ours.
    """
    embeddings = embeddings.float()
    lengths = embeddings.norm(dim=-1)  # [words]
    spread = float(embeddings.var(dim=0, correction=0).double().mean().sqrt())
    return Vocabulary(
        mean_length=float(lengths[lengths > 0].mean()),
        longest=float(lengths.max()),
        spread=float(f"{spread:.{_DIGITS}g}"),
    )
