"""Protocols of face detectors and face parsers; the miniature's models and DeepFace implement them.

Coordinates are continuous: pixel (i, j) covers [i, i + 1) x [j, j + 1), and its center is (i + 0.5, j + 0.5), so that a
point keeps its meaning when a picture is scaled. Left and right are the picture's sides: `left_eye` is the eye with the
smaller x in an upright picture, which is the person's right eye.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Face:
    """One face found in a picture.

    Args:
        box: (x0, y0, x1, y1) in pixels of the picture, roughly from forehead to chin.
        left_eye: center of the eye on the picture's left, or None if the detector did not find it.
        right_eye: center of the eye on the picture's right, or None.
        confidence: 0 to 1, comparable within one detector only.
        landmarks: further named points, such as `mouth`.
    """

    box: Box
    left_eye: Point | None
    right_eye: Point | None
    confidence: float
    landmarks: Mapping[str, Point] = field(default_factory=dict)

    @property
    def eyes(self) -> tuple[Point, Point]:
        """Centers of the left and the right eye.

        Raises:
            ValueError: if the detector did not find both.
        """
        if self.left_eye is None or self.right_eye is None:
            raise ValueError("a face is aligned by its two eyes, and the detector did not find both")
        return self.left_eye, self.right_eye

    @property
    def width(self) -> float:
        """Width of the box in pixels."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        """Height of the box in pixels."""
        return self.box[3] - self.box[1]


class FaceDetector(Protocol):
    """Finds faces in whole pictures."""

    name: str
    version: str

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
        """The faces of each picture (uint8 [h, w, 3] RGB, of any sizes), the most confident first."""
        ...


@runtime_checkable
class Doubting(Protocol):
    """A detector that also says where, with less certainty, a photograph may show further faces.

    `searches_eyes` is True where eyes are looked for inside a face that was found without them, which fails on many a
    face whose eyes are open.
    """

    searches_eyes: bool

    def look(self, image: np.ndarray) -> tuple[list[Face], list[Face]]:
        """The faces of a picture, as `FaceDetector.detect` gives them, and further ones that are only suspected."""
        ...


class FaceParser(Protocol):
    """Gives every pixel of an aligned crop one of `classes.CLASSES`.

    `approximate` is True when the labels come from geometry and color, without a model of faces.
    """

    name: str
    version: str
    approximate: bool

    def parse(self, crops: Sequence[np.ndarray], faces: Sequence[Face] | None = None) -> np.ndarray:
        """Labels uint8 [n, h, w] for crops uint8 [h, w, 3] of one size.

        Args:
            crops: aligned crops, RGB.
            faces: the face of each crop in the crop's own coordinates; a parser may need it or ignore it.
        """
        ...
