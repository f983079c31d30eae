"""Geometry around the scorers: moving pictures, fitting any size into 64 pixels, reading the grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from .scorer_networks import SIZE, DetectorNetwork

# Eye centers of the recognizer's crop as fractions of its side: tight, so that clothes and scene stay out.
RECOGNIZER_EYE_TARGETS = ((22 / 64, 30 / 64), (42 / 64, 30 / 64))

# Two finds whose boxes overlap more than this are one face.
SAME_FACE_OVERLAP = 0.35
# Height of a face that is looked at a second time, as a share of the view: the middle of what was trained.
CLOSE_UP_HEIGHT = 0.6


def warp(image: np.ndarray, matrix: np.ndarray, *, nearest: bool = False) -> np.ndarray:
    """A picture [64, 64, ...] moved by a transform [2, 3] of continuous coordinates; its edge is repeated."""
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ np.array([0.5, 0.5]) - 0.5
    flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cv2.warpAffine(image, shifted, (SIZE, SIZE), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def moved(
    images: np.ndarray, rng: np.random.Generator, *, zoom: tuple[float, float], shift: float
) -> np.ndarray:
    """Training pictures [n, 64, 64, 3]: half of them mirrored, two in five enlarged or shrunk and shifted.

    Args:
        zoom: (least, most) factor. shift: the most, in pixels to each side.
    """
    images = images.copy()
    for number in range(len(images)):
        if rng.random() < 0.5:
            images[number] = images[number, :, ::-1]
        if rng.random() < 0.4:
            factor, offset = rng.uniform(*zoom), rng.uniform(-shift, shift, 2)
            offset += SIZE / 2 * (1 - factor)
            images[number] = warp(images[number], np.array([[factor, 0, offset[0]], [0, factor, offset[1]]]))
    return images


@dataclass(frozen=True)
class View:
    """What the detector looks at.

    Args:
        board: uint8 [64, 64, 3].
        scale: (x, y): how many pixels of the picture that it was cut from are one of the board's.
        corner: (x, y) of the board in that picture.
    """

    board: np.ndarray
    scale: tuple[float, float]
    corner: tuple[float, float] = (0.0, 0.0)

    def in_picture(self, faces: np.ndarray) -> np.ndarray:
        """Faces [k, 9] of the board in the picture's pixels; the confidence stays."""
        points = faces[:, 1:].reshape(-1, 4, 2) * np.array(self.scale) + np.array(self.corner)
        return np.concatenate([faces[:, :1], points.reshape(-1, 8)], 1)


def letterbox(image: np.ndarray) -> View:
    """A whole picture uint8 [h, w, 3] in the top left of the board; its edge is repeated beyond it."""
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
    """A face and its surroundings, the box as high as `CLOSE_UP_HEIGHT` says.

    Args:
        image: uint8 [h, w, 3].
        face: as `decode` gives it, in the picture's pixels.
    """
    x0, y0, x1, y1 = (float(value) for value in face[1:5])
    side = max(4.0, (y1 - y0) / CLOSE_UP_HEIGHT)
    left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
    height, width = image.shape[:2]
    first_x, first_y = max(0, math.floor(left)), max(0, math.floor(top))
    last_x, last_y = min(width, math.ceil(left + side)), min(height, math.ceil(top + side))
    if last_x - first_x < 2 or last_y - first_y < 2:
        return letterbox(image)
    # Cut at whole pixels, so that the way back is exact.
    view = letterbox(image[first_y:last_y, first_x:last_x])
    return View(view.board, view.scale, (first_x, first_y))


def nearest(faces: np.ndarray, face: np.ndarray) -> np.ndarray:
    """The one of `faces` [k, 9] that is `face` [9] seen again, its confidence kept; `face` if none is."""
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
    """Faces from the detector's grid.

    Args:
        grid: float32 [9, 16, 16], see `DetectorNetwork`.
        threshold: least confidence of a face.

    Returns:
        float32 [k, 9]: confidence, box x0, y0, x1, y1, left eye x, y, right eye x, y in pixels of the
        64-pixel picture, the surest first.
    """
    heat = 1 / (1 + np.exp(-grid[0]))
    peaks = heat >= np.maximum(cv2.dilate(heat, np.ones((3, 3), np.uint8)), threshold)
    pitch = SIZE / DetectorNetwork.CELLS
    rows = []
    for row, column in np.argwhere(peaks):
        # The cells around a peak saw the face too: their weighted mean is steadier than one answer.
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
