"""Age and gender through `DeepFace.analyze`, and whether a picture's are the photo's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from faceid_core.evaluate.protocols import Attributes
from faceid_core.weights.catalog import VERSIONS
from faceid_core.weights.deepface_files import forget, serving

# DeepFace.analyze could also name a race, which is not to be guessed, and an emotion, which a prompt may change.
ACTIONS = ("age", "gender")
PIXELS = 224  # side of the crops that its networks read
# Ages that differ by less count as equal. DeepFace states a mean error of 4.65 years: with normal errors, two readings
# of one age differ by less than this in three of four cases.
SAME_AGE_YEARS = 10.0

_AGE_WORDS = re.compile(r"\b(old|elderly|aged|young|younger|older|child|kid|baby|teenager|wrinkles)\b", re.IGNORECASE)


class DeepFaceAttributes:
    """DeepFace's age and gender networks."""

    name = "deepface-Age+Gender"
    version = str(VERSIONS["attributes"])

    def __init__(self, files: Sequence[Path]):
        self._files = tuple(files)

    def attributes(self, crops: Sequence[np.ndarray]) -> list[Attributes]:
        """Age and gender of each crop uint8 [224, 224, 3], cut as DeepFace cuts faces."""
        with serving(self._files):
            from deepface import DeepFace

            return [_read(DeepFace.analyze, crop) for crop in crops]


def _read(analyze: Callable[..., list[dict]], crop: np.ndarray) -> Attributes:
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


def asks_for_age(prompt: str) -> bool:
    """Whether a prompt asks for a person older or younger than the photo's."""
    return _AGE_WORDS.search(prompt) is not None


def compare_attributes(
    seen: Attributes, photo: Attributes, *, age_asked: bool
) -> dict[str, tuple[float, str]]:
    """Compare a picture's attributes with the photo's.

    Args:
        age_asked: whether the prompt asks for an age; age is then left out.

    Returns:
        "gender" and "age" -> (1.0 if equal, else 0.0; what was read from the picture).
    """
    parts = {"gender": (float(seen.gender == photo.gender), seen.gender)}
    if not age_asked:
        parts["age"] = (float(abs(seen.age - photo.age) < SAME_AGE_YEARS), f"{seen.age:.0f} years")
    return parts
