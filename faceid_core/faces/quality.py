"""Quality figures of a photo's face, and the limits at which the photo is rejected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np

from faceid_core.geometry.align import align
from faceid_core.geometry.protocols import Box, Face

from .. import photos
from ..errors import PhotoRejected
from .visible import measure_visible

# Sharpness is measured on a copy of the face of this size, so that the photo's resolution has no effect.
_SHARPNESS_PIXELS = 96
# The face's part of that copy, as fractions of the side: x0, y0, x1, y1.
_FACE_PART = (0.25, 0.30, 0.75, 0.85)
# The face as an ellipse, in eye distances: how far its center lies below the middle of the eyes, half width,
# half height. Measured on portraits by hand; used only for the share of a face outside the photo.
_FACE_ELLIPSE = (0.35, 1.0, 1.25)
# Distance of nose tip and nose base from the plane of the eyes, in eye distances: from the mean face of 68 points in
# space that OpenFace fits (Baltrusaitis et al. 2016): points 30 and 33 against the means of 36 and 39, 42 and 45.
_DEPTHS = {"nose": 0.61, "nose_base": 0.44}
# Gray values that count as black or white, where the sensor has lost the detail.
_BLACK, _WHITE = 12 / 255, 248 / 255


@dataclass(frozen=True)
class Limits:
    """Limits of a photo; the configuration may replace every default.

    Args:
        max_bytes: largest file.
        max_pixels: largest width x height.
        min_face_pixels: smallest width and height of the face's box in the photo.
        min_sharpness: lowest `sharpness`. Blurring a sharp face by a Gaussian of 3 % of the eye
            distance left at least 0.14 on portraits and renders, 9 % at most 0.044.
        max_cut_share: largest share of the face that may lie outside the photo.
        max_yaw_degrees: largest turn of the face to the side; None: any. Needs a detector that gives a nose.
        max_clipped_share: largest share of the face that may be black or white; None: any.
        min_relative_size: a further face narrower than this share of the widest one counts as background.
        min_brightness, min_contrast: least mean and standard deviation of the face's gray values, 0 to 1; None: any.
        min_eye_brightness, min_mouth_contrast: below them, eyes or mouth count as covered; None: any. See `visible`.
        max_flat_share: largest share of the face without texture, above which it counts as drawn; None: any.
        min_side_margin: least eye distances between an eye and the photo's side; None: any.
        min_detail_share: least share of the face's pixels a side that its detail needs; None: any.
        covered: whether covered eyes or mouths "reject" the photo or "warn".
    """

    max_bytes: int = photos.MAX_BYTES
    max_pixels: int = photos.MAX_PIXELS
    min_face_pixels: float = 40.0
    min_sharpness: float = 0.08
    max_cut_share: float = 0.15
    max_yaw_degrees: float | None = None
    max_clipped_share: float | None = None
    min_relative_size: float = 0.4
    min_brightness: float | None = None
    min_contrast: float | None = None
    min_eye_brightness: float | None = None
    min_mouth_contrast: float | None = None
    max_flat_share: float | None = None
    min_side_margin: float | None = None
    min_detail_share: float | None = None
    covered: str = "reject"

    @property
    def for_photographs(self) -> bool:
        """Whether figures that only photographs have are limited."""
        return self.max_yaw_degrees is not None or self.max_clipped_share is not None

    @property
    def looks_at_parts(self) -> bool:
        """Whether what can be seen of eyes, mouth and texture is limited."""
        parts = (
            self.min_eye_brightness,
            self.min_mouth_contrast,
            self.max_flat_share,
            self.min_side_margin,
            self.min_detail_share,
        )
        return any(part is not None for part in parts)

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Limits:
        """The limits among a stage's parameters; the others keep their defaults."""
        return cls(**{each.name: parameters[each.name] for each in fields(cls) if each.name in parameters})


def measure(image: np.ndarray, face: Face, limits: Limits | None = None) -> dict[str, float]:
    """The quality of a face in a photo.

    Args:
        image: uint8 [h, w, 3].
        face: with both eyes.
        limits: select the figures that only photographs have.

    Returns:
        face_pixels (the smaller side of its box), eye_distance_pixels, sharpness, cut_share, brightness and
        contrast (mean and standard deviation of the face's gray values, 0 to 1); where limited, clipped_share and, if
        the detector gave a nose, yaw_degrees (positive: turned to the picture's right).
    """
    eyes = np.array(face.eyes, dtype=np.float64)  # [2, 2]
    crop, _, _ = align(image, *face.eyes, size=_SHARPNESS_PIXELS)
    x0, y0, x1, y1 = (round(part * _SHARPNESS_PIXELS) for part in _FACE_PART)
    gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[y0:y1, x0:x1].astype(np.float32) / 255
    figures = {
        "face_pixels": min(face.width, face.height),
        "eye_distance_pixels": float(np.linalg.norm(eyes[1] - eyes[0])),
        "sharpness": sharpness(gray),
        "cut_share": cut_share(image.shape[0], image.shape[1], eyes),
        "brightness": float(gray.mean()),
        "contrast": float(gray.std()),
    }
    if limits is not None and limits.max_clipped_share is not None:
        figures["clipped_share"] = float(((gray <= _BLACK) | (gray >= _WHITE)).mean())
    if limits is not None and limits.max_yaw_degrees is not None:
        yaw = yaw_degrees(face)
        if yaw is not None:
            figures["yaw_degrees"] = yaw
    if limits is not None and limits.looks_at_parts:
        figures |= measure_visible(image, face)
    return {name: round(value, 4) for name, value in figures.items()}


def sharpness(gray: np.ndarray) -> float:
    """Variance of the Laplacian divided by the variance of the gray values, so that contrast has no effect.

    Args:
        gray: float32 [h, w] in 0 to 1, of a face brought to one size.
    """
    # A floor of half a gray step avoids dividing by zero on a uniform surface.
    spread = max(float(gray.var()), (0.5 / 255) ** 2)
    return float(cv2.Laplacian(gray, cv2.CV_32F).var()) / spread


def check_blur_without_eyes(image: np.ndarray, box: Box, limits: Limits) -> None:
    """Check a face without detected eyes for blur, by the sharpness of its box.

    Raises:
        PhotoRejected: too_blurred.
    """
    if not limits.for_photographs:
        return
    x0, y0, x1, y1 = (round(value) for value in box)
    # A detector's box is about the part of the aligned copy that `measure` looks at.
    width, height = (
        round((end - start) * _SHARPNESS_PIXELS)
        for start, end in zip(_FACE_PART, _FACE_PART[2:], strict=False)
    )
    small = cv2.resize(image[y0:y1, x0:x1], (width, height), interpolation=cv2.INTER_AREA)
    _check_sharpness(sharpness(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255), limits)


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


def yaw_degrees(face: Face) -> float | None:
    """The face's turn to the side, from the nose's position between the eyes; None without a nose.

    A nose that lies d eye distances in front of the eyes' plane appears at d * tan(angle) eye distances from the middle
    of the eyes.
    """
    name = next((name for name in _DEPTHS if name in face.landmarks), None)
    if name is None:
        return None
    left, right, nose = (
        np.array(p, np.float64) for p in (face.left_eye, face.right_eye, face.landmarks[name])
    )
    along = right - left
    aside = float((nose - (left + right) / 2) @ along / (along @ along))
    return math.degrees(math.atan(aside / _DEPTHS[name]))


def check(figures: dict[str, float], limits: Limits) -> tuple[str, ...]:
    """Reject a photo whose figures (from `measure`) exceed the limits.

    Returns:
        what is wrong but only warned of: sentences.

    Raises:
        PhotoRejected: face_too_small, face_cut_off, turned_away, badly_exposed, too_blurred, enlarged,
            not_a_photograph or face_covered.
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
    margin = figures.get("side_margin", math.inf)
    if limits.min_side_margin is not None and margin < limits.min_side_margin:
        sentence = (
            "The photo's side cuts through the face, close to an eye. Send one that shows the whole face."
        )
        raise PhotoRejected("face_cut_off", sentence, value=margin, threshold=limits.min_side_margin)
    yaw = abs(figures.get("yaw_degrees", 0.0))
    if limits.max_yaw_degrees is not None and yaw > limits.max_yaw_degrees:
        sentence = (
            f"The face is turned to the side by about {yaw:.0f} degrees; at most {limits.max_yaw_degrees:.0f} are "
            "accepted. Send a photo taken from the front."
        )
        raise PhotoRejected("turned_away", sentence, value=yaw, threshold=limits.max_yaw_degrees)
    clipped = figures.get("clipped_share", 0.0)
    if limits.max_clipped_share is not None and clipped > limits.max_clipped_share:
        what = "dark" if figures["brightness"] < 0.5 else "bright"
        sentence = (
            f"About {clipped:.0%} of the face is too {what} to show anything. Send a photo in even light, "
            "without flash or hard sun."
        )
        raise PhotoRejected("badly_exposed", sentence, value=clipped, threshold=limits.max_clipped_share)
    _check_light(figures, limits)
    _check_sharpness(figures["sharpness"], limits)
    _check_detail(figures, limits)
    warnings = _check_covered(figures, limits)
    flat = figures.get("flat_share", 0.0)
    if limits.max_flat_share is not None and flat > limits.max_flat_share:
        sentence = (
            f"{flat:.0%} of the face has no texture, as in a drawing. Send a photograph without filters."
        )
        raise PhotoRejected("not_a_photograph", sentence, value=flat, threshold=limits.max_flat_share)
    return warnings


def _check_detail(figures: dict[str, float], limits: Limits) -> None:
    """Reject a face of many pixels and little detail: one that was enlarged."""
    share = figures.get("detail_share", 1.0)
    if limits.min_detail_share is not None and share < limits.min_detail_share:
        size = figures["face_pixels"]
        sentence = (
            f"The face of {size:.0f} pixels shows no more than one of about {share * size:.0f}: the photo was enlarged. "
            "Send the original."
        )
        raise PhotoRejected("enlarged", sentence, value=share, threshold=limits.min_detail_share)


def _check_light(figures: dict[str, float], limits: Limits) -> None:
    """Reject a face that is too dark or without contrast."""
    for name, limit, what in (
        ("brightness", limits.min_brightness, "dark"),
        ("contrast", limits.min_contrast, "pale or foggy"),
    ):
        if limit is not None and figures[name] < limit:
            sentence = (
                f"The face is too {what} ({name} {figures[name]:.2f}, at least {limit:.2f} is needed). Send a photo in "
                "even light."
            )
            raise PhotoRejected("badly_exposed", sentence, value=figures[name], threshold=limit)


def _check_covered(figures: dict[str, float], limits: Limits) -> tuple[str, ...]:
    """Reject a face whose eyes or mouth cannot be seen, or return the sentences that say so."""
    warnings: list[str] = []
    # Mirrored glasses are bright: dark around the eyes, and no eye for the cascade, are two signs.
    eyes = limits.min_eye_brightness
    unseen = "eyes_seen" if eyes and figures.get("eye_brightness", 0.0) >= eyes else ""
    for name, limit, what, cause in (
        ("eye_brightness", eyes, "eyes", "sunglasses"),
        (unseen, 1.0, "eyes", "sunglasses"),
        ("mouth_contrast", limits.min_mouth_contrast, "mouth", "a mask, hand or scarf before it"),
    ):
        value = figures.get(name, math.inf)
        if limit is not None and value < limit:
            sentence = f"The {what} cannot be seen. Send a photo without {cause}."
            if limits.covered == "reject":
                raise PhotoRejected("face_covered", sentence, value=value, threshold=limit)
            warnings.append(sentence)
    return tuple(warnings)


def _check_sharpness(sharp: float, limits: Limits) -> None:
    if sharp < limits.min_sharpness:
        sentence = (
            f"The face is blurred (sharpness {sharp:.3f}, at least {limits.min_sharpness:.3f} is needed). "
            "Send a photo in which the face is in focus and not moving."
        )
        raise PhotoRejected("too_blurred", sentence, value=sharp, threshold=limits.min_sharpness)
