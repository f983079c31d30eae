"""The two pairs of detector and parser: the miniature's own, and DeepFace with ellipses for photographs."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .. import photos
from ..errors import ConfigurationError
from .protocols import FaceDetector, FaceParser

BACKENDS = ("miniature", "deepface")


def load_faces(
    name: str, *, folder: str | Path | None = None, model: str = "opencv"
) -> tuple[FaceDetector, FaceParser]:
    """A detector and the parser that goes with it.

    Args:
        name: "miniature" or "deepface".
        folder: for the miniature, a folder with `detector` and `parser` inside; None: the shipped ones.
        model: for DeepFace, which of its detectors, see `deepface_backend.WEIGHT_FILES`.

    Raises:
        MissingWeights: naming the absent file and its folder.
        ConfigurationError: if the name is unknown or a package is missing.
    """
    if name == "miniature":
        # Imported here: real photographs need neither torch nor the miniature's weights.
        from ..miniature import scorers

        detector = None if folder is None else Path(folder) / "detector"
        parser = None if folder is None else Path(folder) / "parser"
        return scorers.load_detector(detector), scorers.load_parser(parser)
    if name == "deepface":
        from .deepface_backend import DeepFaceDetector
        from .ellipse import EllipseParser

        return DeepFaceDetector(model), EllipseParser()
    raise ConfigurationError(f"faces backend {name!r} is unknown; use one of {', '.join(BACKENDS)}")


def backend_digest(name: str, *, model: str = "opencv") -> str:
    """SHA-256 of what decides a backend's answers: its files and the versions of its own code.

    Only for "deepface": the miniature's models have their digests in `models.lock`.

    Raises:
        MissingWeights, ConfigurationError: as `load_faces`.
    """
    if name != "deepface":
        raise ConfigurationError(f"faces backend {name!r} has no digest of its own; see models.lock")
    from .deepface_backend import DeepFaceDetector, find_weights
    from .ellipse import EllipseParser

    record = {
        "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in find_weights(model)},
        "detector": [model, DeepFaceDetector.version],
        "parser": [EllipseParser.name, EllipseParser.version],
    }
    return hashlib.sha256(photos.encode_json(record)).hexdigest()
