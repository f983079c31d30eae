"""The canvas: colors and labels are drawn at three times the final size and shrunk at the end."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

# An odd factor, so that the label of a pixel is the label at its center.
OVERSAMPLING = 3
_FRACTION_BITS = 4
_ANGLES = np.linspace(0, 2 * math.pi, 28, endpoint=False)
CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)  # [28, 2]

Points = Sequence[tuple[float, float]] | np.ndarray  # [n, 2]

cv2.setNumThreads(1)


class Canvas:
    """Four channels drawn together: red, green, blue and the label."""

    def __init__(self, size: int, width: int | None = None):
        """Of `size` pixels in height, and as wide unless a width is given; a picture side is the height."""
        self.size, self.width = size, width or size
        self.side = size * OVERSAMPLING
        self.pixels = np.zeros((self.side, self.width * OVERSAMPLING, 4), np.uint8)

    def pen(self, x: float, y: float, unit: float) -> "Pen":
        """A pen whose origin and unit are given in picture sides."""
        return Pen(self, x, y, unit)

    def gradient(
        self, top: Sequence[float], bottom: Sequence[float], y0: float = 0.0, y1: float = 1.0
    ) -> None:
        """Fill the rows from y0 to y1 (picture sides) with a vertical gradient, label 0."""
        first, last = int(y0 * self.side), math.ceil(y1 * self.side)
        share = np.linspace(0, 1, max(1, last - first))[:, None]
        rows = np.asarray(top) * (1 - share) + np.asarray(bottom) * share  # [rows, 3]
        self.pixels[first:last, :, :3] = rows[:, None, :].astype(np.uint8)
        self.pixels[first:last, :, 3] = 0

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """The picture [H, W, 3] and the labels [H, W], both uint8."""
        image = cv2.resize(self.pixels[:, :, :3], (self.width, self.size), interpolation=cv2.INTER_AREA)
        center = OVERSAMPLING // 2
        return image, self.pixels[center::OVERSAMPLING, center::OVERSAMPLING, 3].copy()


class Pen:
    """Draws on a canvas in local coordinates: origin (x, y), one unit of length, y downwards."""

    def __init__(self, canvas: Canvas, x: float, y: float, unit: float):
        self.canvas, self.x, self.y, self.unit = canvas, x, y, unit
        fixed = canvas.side << _FRACTION_BITS
        # cv2's coordinates are those of pixel centers, half a pixel off the picture's.
        half = 1 << (_FRACTION_BITS - 1)
        self._origin = np.array([x * fixed - half, y * fixed - half])
        self._unit = unit * fixed
        self.pixels_per_unit = unit * canvas.side

    def _fixed(self, points: Points) -> np.ndarray:
        return np.rint(np.asarray(points, dtype=np.float64) * self._unit + self._origin).astype(np.int32)

    def polygon(self, points: Points, color: tuple, label: int) -> None:
        """Fill a polygon [N, 2]."""
        cv2.fillPoly(self.canvas.pixels, [self._fixed(points)], (*color, label), cv2.LINE_8, _FRACTION_BITS)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: tuple, label: int) -> None:
        """Fill an upright ellipse."""
        points = self._fixed(CIRCLE * (rx, ry) + (x, y))
        cv2.fillConvexPoly(self.canvas.pixels, points, (*color, label), cv2.LINE_8, _FRACTION_BITS)

    def line(self, points: Points, width: float, color: tuple, label: int, closed: bool = False) -> None:
        """Draw a line of a width in units, at least one drawn pixel wide."""
        thickness = max(1, round(width * self.pixels_per_unit))
        cv2.polylines(
            self.canvas.pixels,
            [self._fixed(points)],
            closed,
            (*color, label),
            thickness,
            cv2.LINE_8,
            _FRACTION_BITS,
        )

    def ring(self, x: float, y: float, rx: float, ry: float, width: float, color: tuple, label: int) -> None:
        """Draw the outline of an upright ellipse."""
        self.line(CIRCLE * (rx, ry) + (x, y), width, color, label, closed=True)

    def in_pixels(self, x: float, y: float) -> tuple[float, float]:
        """A local point in pixels of the finished picture."""
        size = self.canvas.size
        return (self.x + x * self.unit) * size, (self.y + y * self.unit) * size
