"""Alignment: the similarity transform that moves the eyes and other landmarks to where models expect them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import ArrayLike

from faceid_core.geometry.protocols import Point

EyeTargets = tuple[Point, Point]

# Eye centers of a frontal close-up as fractions of the picture's side: (left, right). They are the means over
# 1,000 close-ups of the miniature renderer (standard deviation 0.010 sideways), so that an aligned crop looks
# like what its models were trained on.
TRAINING_EYE_TARGETS: EyeTargets = ((0.387, 0.543), (0.613, 0.543))

# Head and shoulders: eyes a quarter of the width apart and 0.6 widths below the top of a picture 4/3 as high as wide, as
# in the token frontal image of ISO/IEC 19794-5:2005, which is a passport photo's; widened to a square.
PORTRAIT_EYE_TARGETS: EyeTargets = ((0.40625, 0.45), (0.59375, 0.45))

FRAMINGS: dict[str, EyeTargets] = {"close_up": TRAINING_EYE_TARGETS, "portrait": PORTRAIT_EYE_TARGETS}

# Further points of a frontal face, in eye distances from the middle of the eyes: along the line from the left to the
# right eye, and down from it. Nose and mouth follow the template to which InsightFace aligns for ArcFace (112 x 112: eyes
# 38.29, 51.70 and 73.53, 51.50; nose 56.03, 71.74; mouth 41.55, 92.37 and 70.73, 92.20). The corners of the eyes and the
# base of the nose follow dlib's mean face (get_face_chip_details in image_transforms/interpolation.h). Both are made
# symmetrical.
FACE_TEMPLATE: dict[str, Point] = {
    "nose": (0.0, 0.571),
    "mouth_left": (-0.414, 1.155),
    "mouth_right": (0.414, 1.155),
    "left_eye_outer": (-0.703, -0.015),
    "left_eye_inner": (-0.297, 0.015),
    "right_eye_inner": (0.297, 0.015),
    "right_eye_outer": (0.703, -0.015),
    "nose_base": (0.0, 0.774),
}

# Above this shrinking factor the source is first averaged in whole blocks, which bounds memory for large photos.
_MAX_SUPERSAMPLING = 8
# Eyes nearer than this have no reliable direction.
_MIN_EYE_DISTANCE_PIXELS = 1.0


def targets_in_pixels(eye_targets: EyeTargets, size: int) -> EyeTargets:
    """Eye targets, given as fractions of a crop's side, in pixels of a crop of a size."""
    (lx, ly), (rx, ry) = eye_targets
    return (lx * size, ly * size), (rx * size, ry * size)


def similarity(source: EyeTargets, target: EyeTargets) -> np.ndarray:
    """The rotation, uniform scale and shift that maps two points onto two others.

    Args:
        source: two points (x, y) in pixels.
        target: their targets in pixels.

    Returns:
        float64 [2, 3]: target = matrix[:, :2] @ point + matrix[:, 2].

    Raises:
        ValueError: if the two source points coincide.
    """
    (ax, ay), (bx, by) = source
    (cx, cy), (dx, dy) = target
    start, end = complex(bx - ax, by - ay), complex(dx - cx, dy - cy)
    if abs(start) < _MIN_EYE_DISTANCE_PIXELS:
        raise ValueError(f"the eyes lie {abs(start):.2f} pixels apart; alignment needs two distinct points")
    turn = end / start  # a complex number is a rotation with a scale
    matrix = np.array([[turn.real, -turn.imag, 0.0], [turn.imag, turn.real, 0.0]])
    matrix[:, 2] = np.array([cx, cy]) - matrix[:, :2] @ np.array([ax, ay])
    return matrix


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, uniform scale and shift that maps points onto others with the least squared error.

    Args:
        source, target: float [n, 2], at least two distinct points.

    Returns:
        float64 [2, 3], as `similarity`.

    Source: Umeyama, Least-squares estimation of transformation parameters, 1991. In the plane, without reflection, it
    is a linear regression of complex numbers.
    """
    p, q = (np.asarray(points, np.float64) @ np.array([1, 1j]) for points in (source, target))
    centered = p - p.mean()
    turn = np.vdot(centered, q - q.mean()) / np.vdot(centered, centered).real
    shift = q.mean() - turn * p.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def face_transform(
    left_eye: Point, right_eye: Point, landmarks: Mapping[str, Point], targets: EyeTargets
) -> np.ndarray:
    """The similarity that moves a face's eyes, and its landmarks of `FACE_TEMPLATE`, to their targets.

    Args:
        left_eye, right_eye: in the photo.
        landmarks: further points by name. The corners of the eyes count only if all four are given; they then replace
            the centers.
        targets: of the eye centers, in pixels of the crop; the other points' targets follow from them.

    Raises:
        ValueError: if the eyes coincide.
    """
    exact = similarity((left_eye, right_eye), targets)
    known = {name: point for name, point in landmarks.items() if name in FACE_TEMPLATE}
    corners = sum(name.endswith(("_outer", "_inner")) for name in known)
    if corners < 4:
        known = {name: point for name, point in known.items() if not name.endswith(("_outer", "_inner"))}
    if not known:
        return exact
    (lx, ly), (rx, ry) = targets
    middle, along = np.array([lx + rx, ly + ry]) / 2, np.array([rx - lx, ry - ly])
    down = np.array([-along[1], along[0]])
    source = list(known.values())
    target = [middle + FACE_TEMPLATE[name][0] * along + FACE_TEMPLATE[name][1] * down for name in known]
    if corners < 4:
        source += [left_eye, right_eye]
        target += [np.array([lx, ly]), np.array([rx, ry])]
    return fit_similarity(np.array(source), np.array(target))


def transform_points(matrix: np.ndarray, points: ArrayLike) -> np.ndarray:
    """Apply a transform [2, 3] to points [n, 2]; float64 [n, 2]."""
    return np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]


def invert(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a transform [2, 3]."""
    return cv2.invertAffineTransform(np.asarray(matrix, dtype=np.float64))


def align(
    image: np.ndarray,
    left_eye: Point,
    right_eye: Point,
    *,
    size: int,
    eye_targets: EyeTargets = TRAINING_EYE_TARGETS,
    landmarks: Mapping[str, Point] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crop an upright square around a face, with the eyes at fixed positions.

    Args:
        image: uint8 [h, w, 3].
        left_eye: eye on the picture's left, continuous pixel coordinates (see `protocols`).
        right_eye: eye on the picture's right.
        size: side of the crop in pixels.
        eye_targets: where the eyes go, as fractions of the side.
        landmarks: further points of the face; those of `FACE_TEMPLATE` are aligned together with the eyes.

    Returns:
        crop uint8 [size, size, 3], averaged where it shrinks the photo; beyond the photo its edge is repeated.
        valid bool [size, size]: False where the crop reaches beyond the photo.
        transform float64 [2, 3]: photo coordinates to crop coordinates.

    Raises:
        ValueError: if the eyes coincide or the crop lies wholly outside the photo.
    """
    transform = face_transform(left_eye, right_eye, landmarks or {}, targets_in_pixels(eye_targets, size))
    valid = _inside(image.shape[0], image.shape[1], transform, size)
    if not valid.any():
        raise ValueError(f"eyes at {left_eye} and {right_eye} put the crop outside the photo")
    region, to_crop = _needed_region(image, transform, size)
    region, to_crop = _shrink_in_blocks(region, to_crop)
    factor = max(1, math.ceil(1 / _scale(to_crop) - 1e-9))
    large = cv2.warpAffine(
        region,
        _for_pixel_centers(to_crop * factor),
        (size * factor, size * factor),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )  # [size * factor, size * factor, 3]
    crop = cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA) if factor > 1 else large
    return crop, valid, transform


def _scale(matrix: np.ndarray) -> float:
    return math.hypot(matrix[0, 0], matrix[1, 0])


def _for_pixel_centers(matrix: np.ndarray) -> np.ndarray:
    """Continuous coordinates to OpenCV's, in which whole numbers are pixel centers."""
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ np.array([0.5, 0.5]) - 0.5
    return shifted


def _inside(height: int, width: int, transform: np.ndarray, size: int) -> np.ndarray:
    """Crop pixels whose center lies on the photo, bool [size, size]."""
    centers = np.arange(size) + 0.5
    grid = np.stack(np.meshgrid(centers, centers), axis=-1).reshape(-1, 2)  # [size * size, 2] as (x, y)
    x, y = transform_points(invert(transform), grid).T
    return ((x >= 0) & (x <= width) & (y >= 0) & (y <= height)).reshape(size, size)


def _needed_region(image: np.ndarray, transform: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of the photo that the crop covers, and its transform: OpenCV warps at most 32,767 pixels a side."""
    height, width = image.shape[:2]
    corners = transform_points(invert(transform), [(0, 0), (size, 0), (0, size), (size, size)])
    margin = 2 + math.ceil(2 / _scale(transform))
    x0, y0 = (max(0, math.floor(low) - margin) for low in corners.min(axis=0))
    x1, y1 = (
        min(limit, math.ceil(high) + margin)
        for limit, high in zip((width, height), corners.max(axis=0), strict=True)
    )
    shifted = transform.copy()
    shifted[:, 2] += transform[:, :2] @ np.array([x0, y0])
    return np.ascontiguousarray(image[y0:y1, x0:x1]), shifted


def _shrink_in_blocks(region: np.ndarray, transform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average whole blocks until each side has at most `_MAX_SUPERSAMPLING` times the crop's pixels."""
    block = int(1 / (_scale(transform) * _MAX_SUPERSAMPLING))
    if block <= 1:
        return region, transform
    height, width = region.shape[:2]
    padded = cv2.copyMakeBorder(region, 0, -height % block, 0, -width % block, cv2.BORDER_REPLICATE)
    small = cv2.resize(
        padded, (padded.shape[1] // block, padded.shape[0] // block), interpolation=cv2.INTER_AREA
    )
    scaled = transform.copy()
    scaled[:, :2] *= block
    return small, scaled
