"""Leakage: what of the training photo, besides the face, comes back in a picture that nobody asked it for.

Four parts are looked at, each 1 if it came back and 0 if not. None of them is 0 by nature: some pictures of the
class word wear the photo's shirt as well. So a rate means nothing without that of the class word's pictures
against the same photo, the floor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from faceid_core.geometry.protocols import Face

from .grid import Prompt
from .pictures import Close, Pictures, close_up, largest_face
from .protocols import NamedConcepts
from .scorers import Scorers
from .shards import ShardRow

PARTS = ("clothes", "background", "framing", "position")

# Colors nearer than this (CIE 1976 distance in L*a*b*) are one wall's; a wall's own shading differs by up to 6.
SAME_COLOR = 10.0
# The background came back if this share of what is background in both has the photo's color.
SAME_SHARE = 0.5
# Below this share of the crop there is too little background in common to judge.
LEAST_BACKGROUND = 0.05
# Faces whose heights (shares of the picture's) differ by less than this factor are framed alike; a close-up and
# a half figure of the miniature differ by 1.6.
SAME_FRAMING = 1.25
# Face centers nearer than this, in picture sides, are at one place.
SAME_PLACE = 0.02

_CLOSE_UP_WORDS = re.compile(r"\b(face|close-up|portrait|headshot)\b")

Judged = tuple[float | None, str]


@dataclass(frozen=True)
class Photo:
    """What a reference photo [h, w, 3] gives to compare with; None where it is not known.

    Args:
        face: the largest one.
        close: the photo aligned by the eyes, with its background.
        named: what the namer sees in it.
        shape: height and width in pixels.
    """

    face: Face | None
    close: Close | None
    named: NamedConcepts | None
    shape: tuple[int, int]


@dataclass(frozen=True)
class Seen:
    """The same of a generated picture, with its prompt."""

    row: ShardRow
    prompt: Prompt
    face: Face | None
    close: Close | None
    named: NamedConcepts | None


def look_at(photo: np.ndarray, scorers: Scorers) -> Photo:
    """Everything that is needed of a reference photo uint8 [h, w, 3]."""
    face = largest_face(scorers.detector.detect([photo])[0])
    named = scorers.namer.concepts([photo])[0] if scorers.namer is not None else None
    return Photo(face, close_up([photo], [face], scorers)[0], named, photo.shape[:2])


def judge(pictures: Pictures, photo: Photo, prompts: Sequence[Prompt]) -> list[dict[str, Judged]]:
    """For each picture its parts, and `leakage`, the mean of those that can be measured in it.

    Args:
        prompts: of each picture.

    Returns:
        Name to (value, detail), the detail saying what was seen, or why the value is None.
    """
    found = []
    named = pictures.named or [None] * len(pictures.rows)
    for row, prompt, face, close, names in zip(
        pictures.rows, prompts, pictures.faces, pictures.close, named, strict=True
    ):
        seen = Seen(row, prompt, face, close, names)
        parts = {part: _JUDGES[part](seen, photo) for part in PARTS}
        values = [value for value, _ in parts.values() if value is not None]
        back = ", ".join(part for part, (value, _) in parts.items() if value)
        whole = (float(np.mean(values)), back) if values else (None, "nothing can be compared")
        found.append({"leakage": whole} | {f"leakage:{part}": judged for part, judged in parts.items()})
    return found


def _clothes(seen: Seen, photo: Photo) -> Judged:
    """Whether the picture shows the photo's clothes, where the prompt asks for others or for none."""
    if seen.named is None or photo.named is None:
        return None, "no scorer names clothes"
    worn = photo.named.clothes
    if worn is None:
        return None, "the photo's clothes are not named"
    if worn in seen.prompt.expected.get("clothing", ()):
        return None, "the prompt asks for the photo's clothes"
    return float(seen.named.clothes == worn), seen.named.clothes or "none"


def _background(seen: Seen, photo: Photo) -> Judged:
    """Whether the picture's background has the photo's colors, beside the head where both have background."""
    if photo.close is None:
        return None, "no face with eyes in the photo"
    if seen.close is None:
        return None, "no face with eyes"
    shown = photo.named.scene if photo.named is not None else None
    if shown is not None and shown in seen.prompt.expected.get("scene", ()):
        return None, "the prompt asks for the photo's scene"
    common = photo.close.background & seen.close.background  # [s, s]
    if common.mean() < LEAST_BACKGROUND:
        return None, "too little background"
    distances = np.linalg.norm(_lab(photo.close.crop)[common] - _lab(seen.close.crop)[common], axis=-1)
    came_back = (distances < SAME_COLOR).mean() >= SAME_SHARE
    return float(came_back), "the photo's colors" if came_back else "other colors"


def _framing(seen: Seen, photo: Photo) -> Judged:
    """Whether the face is as large in the picture as in the photo, where the prompt asks for no close-up."""
    if _CLOSE_UP_WORDS.search(seen.prompt.text):
        return None, "the prompt asks for a close-up"
    sizes = _sizes(seen, photo)
    if isinstance(sizes, str):
        return None, sizes
    ratio = sizes[0] / sizes[1]
    if 1 / SAME_FRAMING <= ratio <= SAME_FRAMING:
        return 1.0, "as large"
    return 0.0, "larger" if ratio > 1 else "smaller"


def _position(seen: Seen, photo: Photo) -> Judged:
    """Whether the face's center lies where it lies in the photo."""
    if photo.face is None or seen.face is None:
        return None, "no face in the photo" if photo.face is None else "no face"
    away = np.subtract(_center(seen.face, seen.row.image.shape[:2]), _center(photo.face, photo.shape))
    came_back = np.hypot(*away) <= SAME_PLACE
    return float(came_back), "the same place" if came_back else "elsewhere"


_JUDGES: dict[str, Callable[[Seen, Photo], Judged]] = {
    "clothes": _clothes,
    "background": _background,
    "framing": _framing,
    "position": _position,
}


def _sizes(seen: Seen, photo: Photo) -> tuple[float, float] | str:
    """The face's height as a share of the picture's and of the photo's, or why not."""
    if photo.face is None or seen.face is None:
        return "no face in the photo" if photo.face is None else "no face"
    return seen.face.height / seen.row.image.shape[0], photo.face.height / photo.shape[0]


def _center(face: Face, shape: tuple[int, int]) -> tuple[float, float]:
    """The middle of a face's box as shares of the picture's width and height."""
    x0, y0, x1, y1 = face.box
    return (x0 + x1) / 2 / shape[1], (y0 + y1) / 2 / shape[0]


def _lab(crop: np.ndarray) -> np.ndarray:
    """CIE L*a*b* float32 [h, w, 3] of a crop uint8 [h, w, 3], L* from 0 to 100."""
    return cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
