"""DeepFace's face recognizers behind `IdentityScorer`, by DeepFace's names, on crops aligned as each was trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faceid_core.errors import ConfigurationError
from faceid_core.geometry.align import EyeTargets
from faceid_core.weights.catalog import RECOGNIZERS, VERSIONS
from faceid_core.weights.deepface_files import build, find_files

# dlib's mean face of five points, with the padding of 0.25 that its own face chips have: the middle of the two
# corners of each eye. Source: dlib, image_processing/... get_face_chip_details (mean_face_shape_*), and
# `dlib.get_face_chip`; a test aligns a photograph both ways.
DLIB_EYES: EyeTargets = ((0.3182, 0.3143), (0.6685, 0.3142))
# The five-point template of ArcFace's training data (InsightFace, arcface_src of 112 x 112: eyes at
# (38.2946, 51.6963) and (73.5318, 51.5014)); SFace's and GhostFaceNet's crops are made by it too.
ARCFACE_EYES: EyeTargets = ((0.3419, 0.4616), (0.6565, 0.4598))
# Pictures that go through a network together; more are split up.
_BATCH = 32


@dataclass(frozen=True)
class Cut:
    """How a recognizer wants a face.

    Args:
        pixels: side of the crop.
        eyes: where the eye centers go, as fractions of the side; None: the detector's box with the eyes levelled,
            as DeepFace itself cuts faces.
    """

    pixels: int
    eyes: EyeTargets | None


CUTS = {
    "Dlib": Cut(150, DLIB_EYES),
    "SFace": Cut(112, ARCFACE_EYES),
    "ArcFace": Cut(112, ARCFACE_EYES),
    "GhostFaceNet": Cut(112, ARCFACE_EYES),
    "Facenet": Cut(160, None),
    "Facenet512": Cut(160, None),
    "VGG-Face": Cut(224, None),
    "OpenFace": Cut(96, None),
}


class DeepFaceRecognizer:
    """One of DeepFace's recognition models.

    Attributes:
        cut: what its crops are to look like.
        acceptance: cosine from which DeepFace takes two faces for one person's.
    """

    version = str(VERSIONS["recognizer"])

    def __init__(self, model: str, client: Any, cut: Cut, acceptance: float):
        self.name, self.cut, self.acceptance = f"deepface-{model}", cut, acceptance
        self._client = client

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """See `IdentityScorer`; crops uint8 [cut.pixels, cut.pixels, 3]."""
        if not len(crops):
            return np.empty((0, self._client.output_shape), np.float32)
        vectors = [self._forward(crops[start : start + _BATCH]) for start in range(0, len(crops), _BATCH)]
        found = np.concatenate(vectors)  # [n, d]
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    def _forward(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        # DeepFace works in OpenCV's channel order, on values from 0 to 1 ("base" normalization, its default).
        stacked = np.stack(crops)[..., ::-1].astype(np.float32) / 255  # [n, side, side, 3]
        return np.asarray(self._client.forward(stacked), np.float64).reshape(len(crops), -1)


def load_recognizer(model: str, files: Sequence[Path] | None = None) -> DeepFaceRecognizer:
    """A recognizer, from files that are here.

    Args:
        model: DeepFace's name, of `catalog.RECOGNIZERS`.
        files: that it reads; None for those in DeepFace's own folder or in a package.

    Raises:
        MissingWeights: naming the file, its size where known and where to put it.
        ConfigurationError: the name is unknown, or a package is missing.
    """
    if model not in RECOGNIZERS:
        raise ConfigurationError(f"recognizer {model!r} is unknown; use one of: {', '.join(RECOGNIZERS)}")
    client = build("facial_recognition", model, find_files(RECOGNIZERS[model]) if files is None else files)
    # DeepFace takes a second to import; `build` has done it.
    from deepface.config.threshold import thresholds

    return DeepFaceRecognizer(model, client, CUTS[model], 1 - thresholds[model]["cosine"])
