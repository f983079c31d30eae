"""The pairs of detector and parser: the miniature's own, and for photographs DeepFace's detectors with three parsers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from faceid_core.geometry.protocols import FaceDetector, FaceParser

from .. import photos
from ..errors import ConfigurationError
from ..weights.locate import NOWHERE, WeightsPlace, detector_folders

BACKENDS = ("miniature", "deepface")
PARSERS = ("grabcut", "ellipse", "segformer")


def load_faces(
    name: str,
    *,
    folder: str | Path | None = None,
    model: str = "opencv",
    parser: str = "grabcut",
    parser_source: str = "",
    weights: str = "",
    s3: Mapping[str, object] | None = None,
    device: str = "cpu",
) -> tuple[FaceDetector, FaceParser]:
    """A detector and the parser that goes with it.

    Args:
        name: "miniature" or "deepface".
        folder: for the miniature, a folder with `detector` and `parser` inside; None: the shipped ones.
        model: for DeepFace, which of its detectors, see `deepface_backend.WEIGHT_FILES`.
        parser: for DeepFace, one of `PARSERS`.
        parser_source: of a SegFormer, its folder or staged hub id.
        weights: folder or s3://bucket/prefix in which files that do not ship are looked for first.
        s3: as `config.s3` has it.
        device: where a SegFormer runs.

    Raises:
        MissingWeights: naming the absent file and its folder.
        ConfigurationError: if the name is unknown or a package is missing.
    """
    if name == "miniature":
        # Imported here: real photographs need neither torch nor the miniature's weights.
        from ..miniature import scorers

        detector_folder = None if folder is None else Path(folder) / "detector"
        parser_folder = None if folder is None else Path(folder) / "parser"
        return scorers.load_detector(detector_folder), scorers.load_parser(parser_folder)
    if name == "deepface":
        from .deepface_backend import DeepFaceDetector

        place = WeightsPlace(weights, s3 or {})
        return DeepFaceDetector(model, detector_folders(model, place)), load_parser(
            parser, parser_source, place=place, device=device
        )
    raise ConfigurationError(f"faces backend {name!r} is unknown; use one of {', '.join(BACKENDS)}")


def load_parser(
    name: str, source: str = "", *, place: WeightsPlace = NOWHERE, device: str = "cpu"
) -> FaceParser:
    """A parser for photographs, by its name in `PARSERS`.

    Raises:
        MissingWeights, ConfigurationError: as `load_faces`.
    """
    if name == "segformer":
        from .segformer import SegFormerParser

        return SegFormerParser(source, place=place, device=device)
    kind = _plain_parser(name)
    return kind()


def _plain_parser(name: str):
    if name == "grabcut":
        from .grabcut import GrabCutParser

        return GrabCutParser
    if name == "ellipse":
        from .ellipse import EllipseParser

        return EllipseParser
    raise ConfigurationError(f"face parser {name!r} is unknown; use one of {', '.join(PARSERS)}")


def backend_digest(
    name: str, *, model: str = "opencv", weights: str = "", s3: Mapping[str, object] | None = None
) -> str:
    """SHA-256 of what decides a detector's answers: its files or package, and the version of its own code.

    Only for "deepface": the miniature's models have their digests in `models.lock`.

    Raises:
        MissingWeights, ConfigurationError: as `load_faces`.
    """
    if name != "deepface":
        raise ConfigurationError(f"faces backend {name!r} has no digest of its own; see models.lock")
    from .deepface_backend import DeepFaceDetector, find_weights, package_version

    folders = detector_folders(model, WeightsPlace(weights, s3 or {}))
    record = {
        "files": {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in find_weights(model, folders)
        },
        "package": package_version(model),
        "detector": [model, DeepFaceDetector.version],
    }
    return hashlib.sha256(photos.encode_json(record)).hexdigest()


def parser_digest(name: str, source: str = "", place: WeightsPlace = NOWHERE) -> str:
    """SHA-256 of what decides a photograph parser's answers: its files and the version of its own code.

    Raises:
        MissingWeights, ConfigurationError: as `load_parser`.
    """
    if name == "segformer":
        from .segformer import SegFormerParser, source_digest

        record = [name, SegFormerParser.version, source_digest(source, place)]
    else:
        kind = _plain_parser(name)
        record = [kind.name, kind.version]
    return hashlib.sha256(photos.encode_json(record)).hexdigest()
