"""Masks and attention over pictures, and pictures as data URIs; for the private pages only."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from faceid_core.photos import encode_png
from faceid_core.report.synthetic_mark import SyntheticMark, marked_jpeg, marked_png

_MASK_COLOR = np.array([30, 200, 140], np.float32)
# Dark violet over red to pale yellow, ever lighter, so that a print in gray shows the strength too.
_HEAT = np.array(
    [(10, 7, 35), (66, 15, 109), (140, 41, 99), (205, 71, 70), (242, 134, 50), (251, 226, 150)], np.float32
)
# Pictures up to this side are stored exactly; larger ones are shrunk and compressed, to keep pages small.
_JPEG_QUALITY = 88
_LARGEST_EXACT_PIXELS = 128


def mask_overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture with its mask tinted and everything else darkened.

    Args:
        image: uint8 [h, w, 3].
        mask: float [h, w] in 0..1.

    Returns:
        uint8 [h, w, 3].
    """
    weight = np.asarray(mask, np.float32)[..., None]  # [h, w, 1]
    picture = image.astype(np.float32)
    inside = 0.62 * picture + 0.38 * _MASK_COLOR
    return np.rint(weight * inside + (1 - weight) * 0.45 * picture).astype(np.uint8)


def attention_overlay(
    image: np.ndarray, attention: np.ndarray, *, strongest: float | None = None
) -> np.ndarray:
    """A picture in gray with attention as heat over it.

    Args:
        image: uint8 [h, w, 3].
        attention: float [a, b], not negative, over the whole picture.
        strongest: The value that gets the brightest color, the same for maps that are compared; the map's own
            maximum if None.

    Returns:
        uint8 [h, w, 3].
    """
    height, width = image.shape[:2]
    values = np.nan_to_num(np.asarray(attention, np.float32))
    top = float(values.max()) if strongest is None else float(strongest)
    share = np.clip(values / top, 0, 1) if top > 0 else np.zeros_like(values)  # [a, b]
    share = cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR)  # [h, w]
    place = share * (len(_HEAT) - 1)
    lower = np.minimum(place.astype(int), len(_HEAT) - 2)
    rest = (place - lower)[..., None]
    heat = _HEAT[lower] * (1 - rest) + _HEAT[lower + 1] * rest  # [h, w, 3]
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]  # [h, w, 1]
    return np.rint(0.4 * gray + 0.6 * heat).astype(np.uint8)


def with_box(image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """A copy of a photo with a box (x0, y0, x1, y1) drawn, its line as thick as the photo's size asks for."""
    thickness = max(1, round(max(image.shape[:2]) / 160))
    x0, y0, x1, y1 = (round(value) for value in box)
    drawn = np.ascontiguousarray(image.copy())
    return cv2.rectangle(drawn, (x0, y0), (x1, y1), (30, 200, 140), thickness)


@dataclass(frozen=True)
class Embedded:
    """A picture within a page: its data URI, and its size in pixels, by which a page keeps its place."""

    uri: str
    width: int
    height: int


def embedded(image: np.ndarray, *, most_pixels: int = 320, mark: SyntheticMark | None = None) -> Embedded:
    """A picture for a page: small ones exact, larger ones as JPEG of at most `most_pixels`.

    Args:
        image: uint8 [h, w, 3].
        most_pixels: Of a side.
        mark: What a generated picture says of itself; None for a photo.
    """
    side = max(image.shape[:2])
    if side <= _LARGEST_EXACT_PIXELS:
        return _of_page(image, "image/png", marked_png(image, mark) if mark else encode_png(image))
    if side > most_pixels:
        scale = most_pixels / side
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if mark:
        return _of_page(image, "image/jpeg", marked_jpeg(image, mark, quality=_JPEG_QUALITY))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return _of_page(image, "image/jpeg", buffer.getvalue())


def _of_page(image: np.ndarray, media_type: str, data: bytes) -> Embedded:
    uri = f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
    return Embedded(uri, width=image.shape[1], height=image.shape[0])
