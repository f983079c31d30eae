"""Leakage: parts of the training photo, besides the face, that appear in a picture although its prompt asks for none.

Four parts are measured, each 1 if it leaked and 0 if not. Chance alone gives rates above 0: some pictures of the
class word wear the photo's shirt as well. A rate is therefore compared with the floor, the rate of the class word's
pictures against the same photo.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from faceid_core.geometry.protocols import Face

from . import null_reasons as why
from .grid import Prompt
from .null_reasons import NoValue
from .pictures import FaceCrop, Pictures, crop_faces, largest_face
from .protocols import NamedConcepts
from .scorers import Scorers
from .shards import ShardRow

PARTS = ("clothes", "background", "framing", "position")

# Colors nearer than this (CIE 1976 distance in L*a*b*) count as equal; shading alone changes a wall's by up to 6.
SAME_COLOR = 10.0
# The background leaked if this share of the background common to both has the photo's color.
SAME_SHARE = 0.5
# Below this share of the crop, too little background is common to compare.
LEAST_BACKGROUND = 0.05
# Faces whose heights (as shares of the picture's) differ by less than this factor have one framing; a close-up and a
# half figure of the miniature differ by 1.6.
SAME_FRAMING = 1.25
# Face centers nearer than this, in picture sides, have one position.
SAME_POSITION = 0.02

_CLOSE_UP_WORDS = re.compile(r"\b(face|close-up|portrait|headshot)\b", re.IGNORECASE)

Measured = tuple[float | None, str | NoValue]


@dataclass(frozen=True)
class ReferencePhoto:
    """What pictures are compared with; None where it is not known.

    Args:
        face: the photo's largest.
        crop: the photo aligned by the eyes, with its background.
        concepts: that the namer sees in it.
        shape: height and width in pixels.
    """

    face: Face | None
    crop: FaceCrop | None
    concepts: NamedConcepts | None
    shape: tuple[int, int]


@dataclass(frozen=True)
class GeneratedPicture:
    """The same of one generated picture, with its prompt."""

    row: ShardRow
    prompt: Prompt
    face: Face | None
    crop: FaceCrop | None
    concepts: NamedConcepts | None


def read_reference(photo: np.ndarray, scorers: Scorers) -> ReferencePhoto:
    """Face, crop and concepts of a reference photo uint8 [h, w, 3]."""
    face = largest_face(scorers.detector.detect([photo])[0])
    concepts = scorers.namer.concepts([photo])[0] if scorers.namer is not None else None
    return ReferencePhoto(face, crop_faces([photo], [face], scorers)[0], concepts, photo.shape[:2])


def measure_leakage(
    pictures: Pictures, photo: ReferencePhoto, prompts: Sequence[Prompt]
) -> list[dict[str, Measured]]:
    """Each picture's parts, and `leakage`, the mean of those that can be measured in it.

    Args:
        prompts: one per picture.

    Returns:
        Per picture: metric name -> (value, detail). The detail says what was seen, or why the value is None.
    """
    found = []
    concepts = pictures.concepts or [None] * len(pictures.rows)
    for row, prompt, face, crop, seen_concepts in zip(
        pictures.rows, prompts, pictures.faces, pictures.face_crops, concepts, strict=True
    ):
        seen = GeneratedPicture(row, prompt, face, crop, seen_concepts)
        parts = {part: _MEASURES[part](seen, photo) for part in PARTS}
        values = [value for value, _ in parts.values() if value is not None]
        leaked = ", ".join(part for part, (value, _) in parts.items() if value)
        whole = (float(np.mean(values)), leaked) if values else (None, why.NOTHING_COMPARABLE)
        found.append({"leakage": whole} | {f"leakage:{part}": measured for part, measured in parts.items()})
    return found


def _clothes(seen: GeneratedPicture, photo: ReferencePhoto) -> Measured:
    """Whether the picture shows the photo's clothes and the prompt does not ask for them."""
    if seen.concepts is None or photo.concepts is None:
        return None, why.NO_CLOTHES
    worn = photo.concepts.clothes
    if worn is None:
        return None, why.CLOTHES_NOT_NAMED
    if worn in seen.prompt.expected.get("clothing", ()):
        return None, why.CLOTHES_ASKED_FOR
    return float(seen.concepts.clothes == worn), seen.concepts.clothes or "none"


def _background(seen: GeneratedPicture, photo: ReferencePhoto) -> Measured:
    """Whether the background has the photo's colors where both crops show background."""
    if photo.crop is None:
        return None, why.NO_REFERENCE_EYES
    if seen.crop is None:
        return None, why.NO_FACE_WITH_EYES
    shown = photo.concepts.scene if photo.concepts is not None else None
    if shown is not None and shown in seen.prompt.expected.get("scene", ()):
        return None, why.SCENE_ASKED_FOR
    common = photo.crop.background & seen.crop.background  # [s, s]
    if common.mean() < LEAST_BACKGROUND:
        return None, why.LITTLE_BACKGROUND
    distances = np.linalg.norm(_lab(photo.crop.pixels)[common] - _lab(seen.crop.pixels)[common], axis=-1)
    leaked = (distances < SAME_COLOR).mean() >= SAME_SHARE
    return float(leaked), "the photo's colors" if leaked else "other colors"


def _framing(seen: GeneratedPicture, photo: ReferencePhoto) -> Measured:
    """Whether the face is as large as in the photo and the prompt asks for no close-up."""
    if _CLOSE_UP_WORDS.search(seen.prompt.text):
        return None, why.CLOSE_UP_ASKED_FOR
    if photo.face is None or seen.face is None:
        return None, _missing_face(photo)
    # Heights as shares of each picture's.
    ratio = (seen.face.height / seen.row.image.shape[0]) / (photo.face.height / photo.shape[0])
    if 1 / SAME_FRAMING <= ratio <= SAME_FRAMING:
        return 1.0, "as large"
    return 0.0, "larger" if ratio > 1 else "smaller"


def _position(seen: GeneratedPicture, photo: ReferencePhoto) -> Measured:
    """Whether the face's center has the same relative position as in the photo."""
    if photo.face is None or seen.face is None:
        return None, _missing_face(photo)
    away = np.subtract(_center(seen.face, seen.row.image.shape[:2]), _center(photo.face, photo.shape))
    leaked = np.hypot(*away) <= SAME_POSITION
    return float(leaked), "the same place" if leaked else "elsewhere"


_MEASURES: dict[str, Callable[[GeneratedPicture, ReferencePhoto], Measured]] = {
    "clothes": _clothes,
    "background": _background,
    "framing": _framing,
    "position": _position,
}


def _missing_face(photo: ReferencePhoto) -> NoValue:
    return why.NO_PHOTO_FACE if photo.face is None else why.NO_FACE


def _center(face: Face, shape: tuple[int, int]) -> tuple[float, float]:
    """The middle of a face's box as shares of the picture's width and height."""
    x0, y0, x1, y1 = face.box
    return (x0 + x1) / 2 / shape[1], (y0 + y1) / 2 / shape[0]


def _lab(crop: np.ndarray) -> np.ndarray:
    """CIE L*a*b* float32 [h, w, 3] of a crop uint8 [h, w, 3], L* from 0 to 100."""
    return cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
