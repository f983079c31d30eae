"""Facial attributes through `DeepFace.analyze`: whether a picture's face has the age and gender of the photo's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faceid_core.weights.catalog import VERSIONS
from faceid_core.weights.deepface_files import forget, serving

# DeepFace.analyze could also name a race, which is not to be guessed, and an emotion, which a prompt may change.
ACTIONS = ("age", "gender")
PIXELS = 224  # side of the crops that its networks read
# Two ages count as one person's below this. DeepFace states a mean error of 4.65 years: two readings of one age,
# normal errors taken, differ by less in three of four cases.
SAME_AGE_YEARS = 10.0

_AGE_WORDS = re.compile(r"\b(old|elderly|aged|young|younger|older|child|kid|baby|teenager|wrinkles)\b")


@dataclass(frozen=True)
class Attributes:
    """What was read from one face: apparent age in years, and the gender that the model says."""

    age: float
    gender: str


class DeepFaceAttributes:
    """DeepFace's age and gender networks."""

    name = "deepface-Age+Gender"
    version = str(VERSIONS["attributes"])

    def __init__(self, files: Sequence[Path]):
        self._files = tuple(files)

    def attributes(self, crops: Sequence[np.ndarray]) -> list[Attributes]:
        """What each crop uint8 [224, 224, 3] shows: a face cut as DeepFace cuts it."""
        with serving(self._files):
            from deepface import DeepFace

            return [_read(DeepFace.analyze, crop) for crop in crops]


def _read(analyze, crop: np.ndarray) -> Attributes:
    found = analyze(
        np.ascontiguousarray(crop[..., ::-1]),
        actions=ACTIONS,
        detector_backend="skip",
        enforce_detection=False,
        silent=True,
    )[0]
    return Attributes(float(found["age"]), str(found["dominant_gender"]))


def load_attributes(files: Sequence[Path]) -> DeepFaceAttributes:
    """The reader of the age and gender networks' files, which are read at the first face."""
    forget("facial_attribute")
    return DeepFaceAttributes(files)


def asks_for_an_age(prompt: str) -> bool:
    """Whether a prompt asks for a person older or younger than the photo's."""
    return _AGE_WORDS.search(prompt) is not None


def alike(seen: Attributes, photo: Attributes, *, age_asked: bool) -> dict[str, tuple[float, str]]:
    """Part -> (1 if it is as in the photo, else 0; what was seen). Age is left out where the prompt asks for one."""
    parts = {"gender": (float(seen.gender == photo.gender), seen.gender)}
    if not age_asked:
        parts["age"] = (float(abs(seen.age - photo.age) < SAME_AGE_YEARS), f"{seen.age:.0f} years")
    return parts
