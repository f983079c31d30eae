"""What a scorer is: the seam where the miniature's scorers, and others for photographs, plug in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np


class IdentityScorer(Protocol):
    """A face recogniser; the one that scores is never used in training or selection."""

    name: str
    version: str

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Unit vectors float32 [n, d] of aligned face crops, each uint8 [h, w, 3]."""
        ...


class ImageTextScorer(Protocol):
    """Says how well a picture shows what a text says."""

    name: str
    version: str

    def score(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """float32 [n]: picture i against text i, higher is better; comparable within one scorer only."""
        ...


class NamedConcepts(Protocol):
    """What a picture shows, in the words of the grid's expectations; None where nothing is seen."""

    scene: str | None
    attributes: Collection[str]
    held: str | None
    clothes: str | None


class ConceptNamer(Protocol):
    """Names what pictures show."""

    name: str
    version: str

    def concepts(self, images: Sequence[np.ndarray]) -> Sequence[NamedConcepts]:
        """One answer for each picture, uint8 [h, w, 3]."""
        ...
