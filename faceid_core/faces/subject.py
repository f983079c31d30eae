"""Other subjects than people, such as a cat: the user's box or mask locates the subject, without face detection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from faceid_core.geometry.align import align
from faceid_core.geometry.protocols import Box

from .. import photos
from ..errors import PhotoRejected

# Side of the crop as a multiple of the box's longer side, to keep some surroundings.
_SURROUNDINGS = 1.25


@dataclass(frozen=True)
class Cut:
    """A cropped subject.

    Args:
        box: (x0, y0, x1, y1) in the photo.
        crop: uint8 [s, s, 3]; valid: bool [s, s], False where the crop reaches beyond the photo.
        inside: bool [s, s], the subject.
        transform: float64 [2, 3], photo to crop coordinates.
    """

    box: Box
    crop: np.ndarray
    valid: np.ndarray
    inside: np.ndarray
    transform: np.ndarray

    def facts(self) -> dict[str, Any]:
        """Everything but the pixels, as plain JSON values."""
        return {
            "box": [round(value, 3) for value in self.box],
            "transform": [[float(value) for value in row] for row in self.transform],
            "quality": {},
            "given": True,
        }


def read_subject_mask(data: bytes, *, max_bytes: int, max_pixels: int) -> np.ndarray:
    """Read a mask from a picture's untrusted bytes: bool [h, w], True where it is closer to white than to black.

    Raises:
        PhotoRejected: subject_mask_transparent, or any of the reasons of `photos.decode`.
    """
    try:
        decoded = photos.decode(data, max_bytes=max_bytes, max_pixels=max_pixels, opaque=True)
    except PhotoRejected as rejected:
        if rejected.reason != photos.TRANSPARENT:
            raise
        # The background under it would decide what is white.
        sentence = (
            "The mask has transparent parts. Send it opaque: white where the subject is, black elsewhere."
        )
        raise PhotoRejected("subject_mask_transparent", sentence) from None
    return decoded.mean(axis=2) > 127


def cut_subject(
    image: np.ndarray, *, box: Box | None, mask: np.ndarray | None, crop_pixels: int, least_pixels: float
) -> Cut:
    """Crop an upright square around the subject that the user gave.

    Args:
        image: uint8 [h, w, 3], upright.
        box: around the subject, in pixels of the upright photo; None: around the mask.
        mask: bool [h, w], the subject; None: the whole box. With both, the mask within the box.
        crop_pixels: side of the crop.
        least_pixels: smallest width and height of the box.

    Raises:
        PhotoRejected: subject_mask_size, subject_outside or subject_too_small.
    """
    height, width = image.shape[:2]
    if mask is not None and mask.shape != (height, width):
        sentence = (
            f"The mask has {mask.shape[1]} x {mask.shape[0]} pixels, the upright photo {width} x {height}. "
            "Send a mask of the photo's size."
        )
        raise PhotoRejected("subject_mask_size", sentence)
    if box is None:
        box = _bounding_box(mask)
    x0, y0, x1, y1 = max(0.0, box[0]), max(0.0, box[1]), min(float(width), box[2]), min(float(height), box[3])
    within = np.zeros((height, width), bool)
    if x0 < x1 and y0 < y1:
        within[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
    if mask is not None:
        within &= mask
    if not within.any():
        sentence = (
            "Nothing lies where subject_box or the mask points. They count pixels of the upright photo."
        )
        raise PhotoRejected("subject_outside", sentence, value=0, threshold=1)
    smaller = min(x1 - x0, y1 - y0)
    if smaller < least_pixels:
        sentence = (
            f"The subject is only {smaller:.0f} pixels wide or high. Send a photo in which it is larger."
        )
        raise PhotoRejected("subject_too_small", sentence, value=round(smaller, 1), threshold=least_pixels)
    side = _SURROUNDINGS * max(x1 - x0, y1 - y0)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    # The same crop as for faces, by two points a quarter of the side beside the middle.
    points = (x - side / 4, y), (x + side / 4, y)
    targets = (0.25, 0.5), (0.75, 0.5)
    crop, valid, transform = align(image, *points, size=crop_pixels, eye_targets=targets)
    mask_image = np.repeat(within[..., None].astype(np.uint8) * 255, 3, axis=2)
    shares, _, _ = align(mask_image, *points, size=crop_pixels, eye_targets=targets)
    return Cut((x0, y0, x1, y1), crop, valid, (shares[..., 0] > 127) & valid, transform)


def reduced(box: Sequence[float] | None, factor: float) -> Box | None:
    """A box that the user gave in the photo's own pixels, in those of the photo as `photos.decode` shrank it."""
    if not box:
        return None
    x0, y0, x1, y1 = (value / factor for value in box)
    return x0, y0, x1, y1


def _bounding_box(mask: np.ndarray | None) -> Box:
    """The box around a mask; an empty one for an empty mask."""
    if mask is None or not mask.any():
        return 0.0, 0.0, 0.0, 0.0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
