"""A parser without a model: ellipses placed by a face's eyes and box; approximate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from faceid_core.geometry.align import TRAINING_EYE_TARGETS
from faceid_core.geometry.classes import INDEX
from faceid_core.geometry.protocols import Face
from faceid_core.weights.catalog import VERSIONS

# Half width of a face from its eye distance and from the width of a detector's box: the mean of both was closest on three
# portraits, one of them half turned.
_HALF_WIDTH_PER_EYE_DISTANCE = 1.0
_HALF_WIDTH_PER_BOX_WIDTH = 0.44
# Ellipses in units of the face's half width: class, center (x, y) from the middle of the eyes, half axes.
# Later ones cover earlier ones. Proportions as measured by hand on the same three portraits.
_PARTS = (
    ("hair", (0.0, -0.05), (1.22, 1.42)),
    ("skin", (0.0, 0.38), (1.0, 1.25)),
    ("mouth", (0.0, 1.02), (0.46, 0.17)),
)
_EYE = (0.27, 0.14)
_BROW = (0.03, -0.32), (0.30, 0.08)


class EllipseParser:
    """Labels skin, hair, eyes, brows and mouth by geometry alone; hair reaches to the ears' height only."""

    name = "ellipse"
    version = str(VERSIONS["ellipse"])
    approximate = True

    def parse(self, crops: Sequence[np.ndarray], faces: Sequence[Face] | None = None) -> np.ndarray:
        """See `protocols.FaceParser`; without `faces`, the eyes are at the training targets."""
        return np.stack([_label(crop.shape[0], face) for crop, face in with_faces(crops, faces)])


def with_faces(
    crops: Sequence[np.ndarray], faces: Sequence[Face] | None
) -> list[tuple[np.ndarray, Face | None]]:
    """Pair every crop with its face; None if no faces are given.

    Raises:
        ValueError: there are fewer or more faces than crops.
    """
    found = [None] * len(crops) if faces is None else list(faces)
    if len(found) != len(crops):
        raise ValueError(f"{len(crops)} crops came with {len(found)} faces")
    return list(zip(crops, found, strict=True))


@dataclass(frozen=True)
class Geometry:
    """A face's coordinate system: its eyes, its axes, and its half width as the unit of length.

    Args:
        eyes: float64 [2, 2], left and right.
        right, down: unit vectors along the eyes and from them to the chin.
        unit: half width of the face in pixels.
    """

    eyes: np.ndarray
    right: np.ndarray
    down: np.ndarray
    unit: float

    def ellipse(self, size: int, offset: tuple[float, float], axes: tuple[float, float]) -> np.ndarray:
        """Pixels of an ellipse, bool [size, size]: center from the middle of the eyes, half axes, in units."""
        across, along = self._coordinates(size)
        return ((across - offset[0]) / axes[0]) ** 2 + ((along - offset[1]) / axes[1]) ** 2 <= 1

    def below(self, size: int, units: float) -> np.ndarray:
        """Pixels more than a number of units below the eyes, bool [size, size]."""
        return self._coordinates(size)[1] > units

    def within(self, size: int, units: float) -> np.ndarray:
        """Pixels at most a number of units from the face's vertical axis, bool [size, size]."""
        return np.abs(self._coordinates(size)[0]) <= units

    def shoulders(self, size: int, chin: float, half_width: float) -> np.ndarray:
        """Pixels below a chin and, there, in a neck that widens to shoulders, bool [size, size]; lengths in units."""
        across, along = self._coordinates(size)
        return (along > chin) & (np.abs(across) <= half_width + 1.5 * (along - chin))

    def _coordinates(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        centers = np.arange(size) + 0.5
        x, y = np.meshgrid(centers, centers)
        offset = np.stack([x, y], axis=-1) - self.eyes.mean(axis=0)  # [size, size, 2]
        return offset @ self.right / self.unit, offset @ self.down / self.unit


def geometry_of(size: int, face: Face | None) -> Geometry:
    """The geometry of a face in a crop of `size` pixels; without a face, the eyes are at the training targets."""
    if face is None or face.left_eye is None or face.right_eye is None:
        eyes = np.array(TRAINING_EYE_TARGETS) * size
    else:
        eyes = np.array([face.left_eye, face.right_eye])
    along = eyes[1] - eyes[0]
    distance = float(np.hypot(*along))
    unit = _HALF_WIDTH_PER_EYE_DISTANCE * distance
    if face is not None:
        unit = (unit + _HALF_WIDTH_PER_BOX_WIDTH * face.width) / 2
    right = along / distance
    return Geometry(eyes, right, np.array([-right[1], right[0]]), unit)


def _label(size: int, face: Face | None) -> np.ndarray:
    """Labels uint8 [size, size] of one crop."""
    return draw_parts(np.full((size, size), INDEX["background"], np.uint8), geometry_of(size, face))


def draw_parts(labels: np.ndarray, place: Geometry, *, features: bool = False) -> np.ndarray:
    """Draw the ellipses of a face onto labels [size, size] and return them; `features`: only mouth, brows and eyes."""
    degrees = float(np.degrees(np.arctan2(place.right[1], place.right[0])))

    def draw(name: str, origin: np.ndarray, offset: tuple[float, float], axes: tuple[float, float]) -> None:
        center = origin + (offset[0] * place.right + offset[1] * place.down) * place.unit
        # OpenCV's coordinates are those of pixel centers; four fraction bits keep small crops smooth.
        fixed = np.rint((center - 0.5) * 16).astype(int).tolist()
        half = np.rint(np.array(axes) * place.unit * 16).astype(int).tolist()
        cv2.ellipse(labels, fixed, half, degrees, 0, 360, INDEX[name], -1, cv2.LINE_8, 4)

    middle = place.eyes.mean(axis=0)
    for name, offset, axes in _PARTS:
        if not features or name not in ("hair", "skin"):
            draw(name, middle, offset, axes)
    for eye, towards_nose in zip(place.eyes, (1, -1), strict=True):
        draw("brows", eye, (_BROW[0][0] * towards_nose, _BROW[0][1]), _BROW[1])
        draw("eyes", eye, (0.0, 0.0), _EYE)
    return labels
