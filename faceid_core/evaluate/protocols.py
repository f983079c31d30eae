"""What a scorer is: the seam where the miniature's scorers, and others for photographs, plug in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from .attributes import Attributes


class IdentityScorer(Protocol):
    """A face recognizer; the one that scores is never used in training or selection.

    One that also has an `acceptance` says from which cosine it takes two faces for one person's.
    """

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


class PictureEmbedder(Protocol):
    """Gives pictures directions in which alike ones lie close."""

    name: str
    version: str

    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Unit vectors float32 [n, d] of pictures, each uint8 [h, w, 3]."""
        ...


class AttributeReader(Protocol):
    """Reads age and gender from faces."""

    name: str
    version: str

    def attributes(self, crops: Sequence[np.ndarray]) -> Sequence[Attributes]:
        """What each crop uint8 [224, 224, 3] shows."""
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
