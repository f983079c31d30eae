"""How good a photo of a face is, in figures, and the limits below which it is turned away."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .. import photos
from ..errors import PhotoRejected
from .align import align
from .protocols import Face

# Sharpness is measured on a copy of the face of this size, so that the photo's resolution does not count.
_SHARPNESS_PIXELS = 96
# The part of that copy which the face fills, as fractions of the side: x0, y0, x1, y1.
_FACE_PART = (0.25, 0.30, 0.75, 0.85)
# The face as an ellipse, in eye distances: how far its centre lies below the middle of the eyes, half width,
# half height. Measured on portraits by hand; it only decides how much of a face lies outside the photo.
_FACE_ELLIPSE = (0.35, 1.0, 1.25)


@dataclass(frozen=True)
class Limits:
    """What a photo must keep to; every default is a starting point that a configuration may replace.

    Args:
        max_bytes: largest file.
        max_pixels: largest width x height.
        min_face_pixels: least width and height of the face's box in the photo.
        min_sharpness: least `sharpness`, see there. Blurring a sharp face by a Gaussian of 3 % of the eye
            distance left at least 0.14 on portraits and renders, 9 % at most 0.044.
        max_cut_share: largest share of the face that may lie outside the photo.
        min_relative_size: a further face counts as somebody in the background when it is narrower than this
            share of the widest face.
    """

    max_bytes: int = photos.MAX_BYTES
    max_pixels: int = photos.MAX_PIXELS
    min_face_pixels: float = 40.0
    min_sharpness: float = 0.08
    max_cut_share: float = 0.15
    min_relative_size: float = 0.4


def measure(image: np.ndarray, face: Face) -> dict[str, float]:
    """The quality of a face in a photo.

    Args:
        image: uint8 [h, w, 3].
        face: with both eyes.

    Returns:
        face_pixels (the smaller side of its box), eye_distance_pixels, sharpness, cut_share, brightness and
        contrast (mean and standard deviation of the face's grey values, 0 to 1).
    """
    eyes = np.array([face.left_eye, face.right_eye], dtype=np.float64)  # [2, 2]
    crop, _, _ = align(image, face.left_eye, face.right_eye, size=_SHARPNESS_PIXELS)
    x0, y0, x1, y1 = (round(part * _SHARPNESS_PIXELS) for part in _FACE_PART)
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[y0:y1, x0:x1].astype(np.float32) / 255
    figures = {
        "face_pixels": min(face.width, face.height),
        "eye_distance_pixels": float(np.linalg.norm(eyes[1] - eyes[0])),
        "sharpness": sharpness(grey),
        "cut_share": cut_share(image.shape[0], image.shape[1], eyes),
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
    }
    return {name: round(value, 4) for name, value in figures.items()}


def sharpness(grey: np.ndarray) -> float:
    """Variance of the Laplacian divided by the variance of the grey values, so that contrast does not count.

    Args:
        grey: float32 [h, w] in 0 to 1, of a face brought to one size.
    """
    # A floor of half a grey step keeps an even surface from dividing by nothing.
    spread = max(float(grey.var()), (0.5 / 255) ** 2)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var()) / spread


def cut_share(height: int, width: int, eyes: np.ndarray) -> float:
    """Share of the face, as an ellipse fitted to its eyes [2, 2], that lies outside a photo."""
    along = eyes[1] - eyes[0]  # from the left eye to the right one: the face's x axis, one eye distance long
    down = np.array([-along[1], along[0]])
    drop, half_width, half_height = _FACE_ELLIPSE
    steps = np.linspace(-1, 1, 41)
    u, v = (axis.ravel() for axis in np.meshgrid(steps, steps))
    inside = u**2 + v**2 <= 1
    middle = eyes.mean(axis=0) + drop * down
    points = middle + np.outer(u[inside] * half_width, along) + np.outer(v[inside] * half_height, down)
    x, y = points.T
    return float(1 - ((x >= 0) & (x <= width) & (y >= 0) & (y <= height)).mean())


def check(figures: dict[str, float], limits: Limits) -> None:
    """Turn a photo away whose figures (from `measure`) do not keep to the limits.

    Raises:
        PhotoRejected: face_too_small, face_cut_off or too_blurred.
    """
    size = figures["face_pixels"]
    if size < limits.min_face_pixels:
        sentence = (
            f"The face is {size:.0f} pixels wide; at least {limits.min_face_pixels:.0f} are needed. "
            "Send a photo taken from nearer or in a higher resolution."
        )
        raise PhotoRejected("face_too_small", sentence, value=size, threshold=limits.min_face_pixels)
    cut = figures["cut_share"]
    if cut > limits.max_cut_share:
        sentence = f"About {cut:.0%} of the face lies outside the photo. Send one that shows the whole face."
        raise PhotoRejected("face_cut_off", sentence, value=cut, threshold=limits.max_cut_share)
    sharp = figures["sharpness"]
    if sharp < limits.min_sharpness:
        sentence = (
            f"The face is blurred (sharpness {sharp:.3f}, at least {limits.min_sharpness:.3f} is needed). "
            "Send a photo in which the face is in focus and not moving."
        )
        raise PhotoRejected("too_blurred", sentence, value=sharp, threshold=limits.min_sharpness)
