"""Geometry of the scorers: transforms, fitting pictures of any size into 64 pixels, decoding the detector's grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from .scorer_networks import SIZE, DetectorNetwork

# Eye centers of the recognizer's crop as fractions of its side: tight, so that clothes and scene stay out.
RECOGNIZER_EYE_TARGETS = ((22 / 64, 30 / 64), (42 / 64, 30 / 64))

# Two detections whose boxes overlap more than this are one face.
SAME_FACE_OVERLAP = 0.35
# Height of a face in the second detection, as a share of the view: the middle of the training range.
CLOSE_UP_HEIGHT = 0.6


def warp(image: np.ndarray, matrix: np.ndarray, *, nearest: bool = False) -> np.ndarray:
    """Transform a picture [64, 64, ...] by a matrix [2, 3] of continuous coordinates; its edge is repeated."""
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ np.array([0.5, 0.5]) - 0.5
    flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cv2.warpAffine(image, shifted, (SIZE, SIZE), flags=flags, borderMode=cv2.BORDER_REPLICATE)


@dataclass(frozen=True)
class View:
    """The detector's input and its position in the picture.

    Args:
        board: uint8 [64, 64, 3].
        scale: (x, y): pixels of the picture per pixel of the board.
        corner: (x, y) of the board in the picture.
    """

    board: np.ndarray
    scale: tuple[float, float]
    corner: tuple[float, float] = (0.0, 0.0)

    def in_picture(self, faces: np.ndarray) -> np.ndarray:
        """Faces [k, 9] of the board in the picture's pixels, with unchanged confidence."""
        points = faces[:, 1:].reshape(-1, 4, 2) * np.array(self.scale) + np.array(self.corner)
        return np.concatenate([faces[:, :1], points.reshape(-1, 8)], 1)


def letterbox(image: np.ndarray) -> View:
    """Fit a whole picture uint8 [h, w, 3] into the board's top left; its edge is repeated beyond it."""
    height, width = image.shape[:2]
    scale = max(height, width) / SIZE
    rows, columns = max(1, round(height / scale)), max(1, round(width / scale))
    if (rows, columns) != (height, width):
        # Averaging when shrinking; when enlarging, INTER_AREA would repeat pixels.
        how = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
        image = cv2.resize(image, (columns, rows), interpolation=how)
    board = cv2.copyMakeBorder(image, 0, SIZE - rows, 0, SIZE - columns, cv2.BORDER_REPLICATE)
    return View(board, (width / columns, height / rows))


def close_up(image: np.ndarray, face: np.ndarray) -> View:
    """A view of a face and its surroundings, in which the box has the height `CLOSE_UP_HEIGHT`.

    Args:
        image: uint8 [h, w, 3].
        face: [9] as from `decode`, in the picture's pixels.
    """
    x0, y0, x1, y1 = (float(value) for value in face[1:5])
    side = max(4.0, (y1 - y0) / CLOSE_UP_HEIGHT)
    left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
    height, width = image.shape[:2]
    first_x, first_y = max(0, math.floor(left)), max(0, math.floor(top))
    last_x, last_y = min(width, math.ceil(left + side)), min(height, math.ceil(top + side))
    if last_x - first_x < 2 or last_y - first_y < 2:
        return letterbox(image)
    # Cut at whole pixels, so that the inverse is exact.
    view = letterbox(image[first_y:last_y, first_x:last_x])
    return View(view.board, view.scale, (first_x, first_y))


def match_face(faces: np.ndarray, face: np.ndarray) -> np.ndarray:
    """The one of `faces` [k, 9] that matches `face` [9], with the confidence of `face`; `face` itself if none does."""
    if len(faces):
        shared = overlap(face[1:5], faces[:, 1:5])
        if shared.max() > 0.5:
            return np.concatenate([face[:1], faces[shared.argmax(), 1:]])
    return face


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box [4] with boxes [n, 4]."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    area = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return shared / np.maximum(area - shared, 1e-9)


def decode(grid: np.ndarray, *, threshold: float) -> np.ndarray:
    """Decode faces from the detector's grid.

    Args:
        grid: float32 [9, 16, 16], see `DetectorNetwork`.
        threshold: lowest confidence of a face.

    Returns:
        float32 [k, 9]: confidence, box x0, y0, x1, y1, left eye x, y, right eye x, y in pixels of the
        64-pixel picture, the most confident first.
    """
    heat = 1 / (1 + np.exp(-grid[0]))
    peaks = heat >= np.maximum(cv2.dilate(heat, np.ones((3, 3), np.uint8)), threshold)
    pitch = SIZE / DetectorNetwork.CELLS
    rows = []
    for row, column in np.argwhere(peaks):
        # The cells around a peak detect the face too: their weighted mean is more stable than one cell.
        rows_near, columns_near = (slice(max(0, at - 1), min(at + 2, heat.shape[0])) for at in (row, column))
        near = rows_near, columns_near
        ys, xs = np.mgrid[near]
        weight = heat[near] ** 2
        weight = weight / weight.sum()
        center = np.stack([xs, ys]) * pitch + pitch / 2  # [2, r, c]
        points = grid[(slice(1, None), *near)].reshape(4, 2, *weight.shape) * DetectorNetwork.REACH + center
        rows.append([heat[row, column], *(points * weight).sum((2, 3)).reshape(8)])
    rows = sorted(rows, key=lambda face: -face[0])
    kept: list[list[float]] = []
    for face in rows:
        if not kept or overlap(np.array(face[1:5]), np.array(kept)[:, 1:5]).max() < SAME_FACE_OVERLAP:
            kept.append(face)
    return np.array(kept, np.float32).reshape(-1, 9)
