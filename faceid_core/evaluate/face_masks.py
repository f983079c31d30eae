"""The face's mask in a generated picture, and the share of attention outside it."""

from __future__ import annotations

import cv2
import numpy as np

from faceid_core.geometry.align import transform_points
from faceid_core.geometry.classes import INDEX, REGIONS
from faceid_core.geometry.protocols import Face

# Hair belongs to how a person looks, and parsers label beards as hair: the placeholder may look there.
ATTENTION_REGION = "face_hair"


def face_mask(labels: np.ndarray, transform: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mask of the face and its hair in a picture, 0 beyond the crop.

    Args:
        labels: uint8 [s, s], the parser's classes of the crop.
        transform: float64 [2, 3], from the picture to the crop.
        shape: height and width of the picture.

    Returns:
        float32 [h, w] in 0..1.
    """
    inside = [INDEX[name] for name in REGIONS[ATTENTION_REGION]]
    return _mask_in_picture(np.isin(labels, inside).astype(np.float32), transform, shape)


def transform_face(face: Face, transform: np.ndarray) -> Face:
    """A face with two eyes in the coordinates that a transform [2, 3] leads to."""
    x0, y0, x1, y1 = face.box
    corners = transform_points(transform, [(x0, y0), (x1, y0), (x0, y1), (x1, y1)])
    (lx, ly), (rx, ry) = transform_points(transform, face.eyes)
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return Face((left, top, right, bottom), (lx, ly), (rx, ry), face.confidence)


def _mask_in_picture(mask: np.ndarray, transform: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Warp a crop's mask back into the picture [h, w]; `transform` leads from the picture to the crop."""
    # OpenCV counts from pixel centers, transforms of `geometry.align` from pixel corners.
    centered = transform.copy()
    centered[:, 2] += transform[:, :2] @ np.array([0.5, 0.5]) - 0.5
    height, width = shape
    return cv2.warpAffine(mask, centered, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def outside_share(attention_map: np.ndarray, mask: np.ndarray) -> float | None:
    """Share of an attention map [h, w] outside a mask float32 [H, W]; None if the map is empty.

    Args:
        attention_map: not negative, over the whole picture, usually coarser than the mask.
        mask: in 0..1.
    """
    weights = np.asarray(attention_map, np.float64)
    height, width = weights.shape
    inside = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)  # [h, w]
    total = weights.sum()
    if not np.isfinite(total) or total <= 0:
        return None
    return float(np.clip(1 - (weights * inside).sum() / total, 0, 1))
