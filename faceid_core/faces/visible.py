"""What of a face can be seen, without a model: eyes behind dark glasses, a covered mouth, a drawing, a cut side."""

from __future__ import annotations

import cv2
import numpy as np

from faceid_core.geometry.align import align
from faceid_core.geometry.protocols import Box, Face

from .cascade_eyes import count_looks_with_eyes

# The copy that is looked at: its side, and where it has the eyes.
_PIXELS = 128
_EYES = (0.35, 0.38), (0.65, 0.38)
_EYE_DISTANCE = 0.3
# Ellipses in eye distances from the middle of the eyes: center (x, y), half axes. Eyes and cheeks are mirrored.
_EYE = (0.5, 0.03), (0.3, 0.2)
_CHEEK = (0.5, 0.7), (0.18, 0.15)
_MOUTH = (0.0, 1.15), (0.35, 0.15)
_FACE = (0.0, 0.55), (0.9, 1.1)
# Between lashes and pupils, an eye has skin and white as bright as the cheek; behind dark glasses it has nothing.
_BRIGHT_PERCENTILE = 90
# Eyes darker than this, by the cheek, are looked for by another method, which sees none behind dark glasses however they
# mirror. Of the 201 good portraits one shows it no eye either, in shadow; its eyes have 0.77.
DARK_EYES = 0.72
# Lightness (0 to 100) below which a cheek says nothing.
_DARK = 5.0
# Detail is looked for in at most so many pixels a side, in steps of a factor, and counts as lost where so much of the
# face's standard deviation is: a face of 64 pixels enlarged to 710 keeps its detail down to a third of its side.
_DETAIL_PIXELS, _LEAST_DETAIL_PIXELS, _DETAIL_STEP, _LOST_DETAIL = 512, 16, 2**0.25, 0.02
# Gray steps by which the nine pixels around one differ in a photograph: noise alone makes as much.
_NO_TEXTURE = 0.7


def measure_visible(image: np.ndarray, face: Face) -> dict[str, float]:
    """What can be seen of a face in a photograph.

    Args:
        image: uint8 [h, w, 3].
        face: with both eyes.

    Returns:
        eye_lightness: median of the lightness around an eye, by that of the cheek; the larger of the two.
        eyes_seen: of a face with dark eyes, at how many of five sizes OpenCV's cascade sees an eye.
        eye_brightness: 90th percentile of the lightness around an eye, by the median of the cheek below it; the larger
            of the two, since one side may lie in shadow.
        mouth_contrast: standard deviation of the lightness between nose and chin, by its mean.
        flat_share: share of the face without any texture.
        detail_share: side of the smallest copy from which the face comes back, by its own side.
        side_margin: eye distances between the outer eye and the photo's side.
    """
    crop, _, _ = align(image, *face.eyes, size=_PIXELS, eye_targets=_EYES)
    lightness = cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[..., 0]  # [s, s], 0 to 100
    ratios, medians = [], []
    for side in (-1, 1):
        eye, cheek = (lightness[_ellipse((side * x, y), axes)] for (x, y), axes in (_EYE, _CHEEK))
        medians.append(float(np.median(eye)) / max(float(np.median(cheek)), _DARK))
        ratios.append(float(np.percentile(eye, _BRIGHT_PERCENTILE)) / max(float(np.median(cheek)), _DARK))
    mouth = lightness[_ellipse(*_MOUTH)]
    (left, _), (right, _) = face.eyes
    distance = float(np.hypot(*np.subtract(*face.eyes)))
    figures = {
        "eye_lightness": max(medians),
        "eye_brightness": max(ratios),
        "mouth_contrast": float(mouth.std()) / max(float(mouth.mean()), 1.0),
        "flat_share": float((_texture(crop)[_ellipse(*_FACE)] < _NO_TEXTURE).mean()),
        "side_margin": min(left, right, image.shape[1] - left, image.shape[1] - right) / distance,
    }
    figures["detail_share"] = detail_share(image, face.box)
    if max(medians) < DARK_EYES:
        figures["eyes_seen"] = count_looks_with_eyes(image, face.box)
    return {name: round(value, 4) for name, value in figures.items()}


def detail_share(image: np.ndarray, box: Box) -> float:
    """How small a face can be made, as a share of its side, and still come back when it is enlarged again; 0 to 1.

    An enlarged face has pixels, and no detail between them.

    Args:
        image: uint8 [h, w, 3].
        box: of the face; more than `_DETAIL_PIXELS` a side are not looked at.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (round(value) for value in box)
    part = image[max(0, y0) : min(height, y1), max(0, x0) : min(width, x1)]
    side = min(part.shape[:2])
    if side < _LEAST_DETAIL_PIXELS:
        return 1.0
    gray = cv2.cvtColor(np.ascontiguousarray(part[:side, :side]), cv2.COLOR_RGB2GRAY).astype(np.float32)
    if side > _DETAIL_PIXELS:
        side = _DETAIL_PIXELS
        gray = cv2.resize(gray, (side, side), interpolation=cv2.INTER_AREA)
    spread, small = max(float(gray.std()), 1.0), side
    while True:
        smaller = round(small / _DETAIL_STEP)
        copy = cv2.resize(gray, (smaller, smaller), interpolation=cv2.INTER_AREA)
        back = cv2.resize(copy, (side, side), interpolation=cv2.INTER_CUBIC)
        lost = float(np.sqrt(np.mean((back - gray) ** 2)))
        if lost > _LOST_DETAIL * spread or smaller < _LEAST_DETAIL_PIXELS:
            return small / side
        small = smaller


def _ellipse(center: tuple[float, float], axes: tuple[float, float]) -> np.ndarray:
    """Pixels of an ellipse in the copy, bool [s, s]; lengths in eye distances."""
    unit = _EYE_DISTANCE * _PIXELS
    x, y = np.meshgrid(np.arange(_PIXELS) + 0.5, np.arange(_PIXELS) + 0.5)
    across = (x - _PIXELS / 2) / unit - center[0]
    down = (y - _EYES[0][1] * _PIXELS) / unit - center[1]
    return (across / axes[0]) ** 2 + (down / axes[1]) ** 2 <= 1


def _texture(crop: np.ndarray) -> np.ndarray:
    """Standard deviation of the gray values of the nine pixels around each, [s, s]."""
    gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean = cv2.blur(gray, (3, 3))
    return np.sqrt(np.maximum(cv2.blur(gray * gray, (3, 3)) - mean * mean, 0))
