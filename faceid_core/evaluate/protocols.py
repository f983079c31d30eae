"""Protocols of the scorers; the miniature's and the photographs' implement them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class IdentityScorer(Protocol):
    """A face recognizer. The one that reports is never used in training or selection.

    A recognizer with an attribute `acceptance` accepts two faces as one person's from that cosine on.
    """

    name: str
    version: str

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Unit vectors float32 [n, d] of aligned face crops, each uint8 [h, w, 3]."""
        ...


class ImageTextScorer(Protocol):
    """Scores how well pictures show texts."""

    name: str
    version: str

    def score(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """float32 [n]: picture i against text i, higher is better; comparable within one scorer only."""
        ...


class PictureEmbedder(Protocol):
    """Embeds whole pictures; similar pictures lie close."""

    name: str
    version: str

    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Unit vectors float32 [n, d] of pictures uint8 [h, w, 3]."""
        ...


@dataclass(frozen=True)
class Attributes:
    """Apparent age in years and gender of one face, as the model says."""

    age: float
    gender: str


class AttributeReader(Protocol):
    """Reads age and gender from faces."""

    name: str
    version: str

    def attributes(self, crops: Sequence[np.ndarray]) -> Sequence[Attributes]:
        """Attributes of each crop uint8 [224, 224, 3]."""
        ...


class SafetyChecker(Protocol):
    """Judges whether pictures show what should not be shown."""

    name: str
    version: str

    def flags(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Whether each picture uint8 [h, w, 3] is flagged, bool [n]."""
        ...


class NamedConcepts(Protocol):
    """The concepts that a picture shows, in the words of the grid's expectations; None where none is seen."""

    @property
    def scene(self) -> str | None:
        """The scene behind the person."""
        ...

    @property
    def attributes(self) -> Collection[str]:
        """Attributes of the face, such as glasses."""
        ...

    @property
    def held(self) -> str | None:
        """The object in the hand."""
        ...

    @property
    def clothes(self) -> str | None:
        """The clothes."""
        ...


class ConceptNamer(Protocol):
    """Names what pictures show."""

    name: str
    version: str

    def concepts(self, images: Sequence[np.ndarray]) -> Sequence[NamedConcepts]:
        """The concepts of each picture uint8 [h, w, 3]."""
        ...
