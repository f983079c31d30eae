"""The pairs of detector and parser: the miniature's own, and for photographs DeepFace's detectors with three parsers.

OpenCV, torch and transformers are imported where a backend needs them: real photographs need neither torch nor the
miniature's weights, and their digests need no model library at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from faceid_core.errors import ConfigurationError
from faceid_core.geometry.protocols import FaceDetector, FaceParser
from faceid_core.weights.place import NOWHERE, WeightsPlace
from faceid_core.weights.required import ModelRef, face_detector, face_parser
from faceid_core.weights.resolve import resolve

BACKENDS = ("miniature", "deepface")


def load_faces(
    name: str,
    *,
    folder: str | Path | None = None,
    model: str = "opencv",
    parser: str = "grabcut",
    parser_source: str = "",
    place: WeightsPlace = NOWHERE,
    device: str = "cpu",
) -> tuple[FaceDetector, FaceParser]:
    """A detector and the parser that goes with it, by their names.

    Args:
        name: "miniature" or "deepface".
        folder: for the miniature, a folder with `detector` and `parser` inside; None: the shipped ones.
        model: for DeepFace, which of its detectors, see `deepface_files.DETECTOR_FILES`.
        parser: for DeepFace, one of `catalog.PARSERS`.
        parser_source: of a SegFormer, its folder or hub id.
        place: where files that do not ship are looked for first.
        device: where a SegFormer runs.

    Raises:
        MissingWeights: naming the absent file and its folder.
        ConfigurationError: if the name is unknown or a package is missing.
    """
    if name == "miniature":
        return _load_miniature(folder)
    if name == "deepface":
        detector, labels = face_detector(model, place), face_parser(parser, parser_source, place)
        return load_face_models(detector, labels, device=device)
    raise ConfigurationError(f"faces backend {name!r} is unknown; use one of {', '.join(BACKENDS)}")


def load_face_models(
    detector: ModelRef, parser: ModelRef, *, planned: Mapping[str, str] | None = None, device: str = "cpu"
) -> tuple[FaceDetector, FaceParser]:
    """The detector and parser that a configuration needs.

    Args:
        planned: role -> digest that the run was planned with; roles that are absent are not compared.
        device: where a SegFormer runs.

    Raises:
        MissingWeights, ConfigurationError: see `resolve`, or a package is missing.
    """
    planned = planned or {}
    found = resolve(detector, planned=planned.get(detector.role, ""))
    if detector.ships:
        resolve(parser, planned=planned.get(parser.role, ""))
        return _load_miniature(None)
    from .deepface_backend import DeepFaceDetector

    return DeepFaceDetector(detector.name, found.paths), load_parser(parser, planned=planned, device=device)


def load_parser(
    parser: ModelRef, *, planned: Mapping[str, str] | None = None, device: str = "cpu"
) -> FaceParser:
    """A parser for photographs; raises as `load_face_models`."""
    found = resolve(parser, planned=(planned or {}).get(parser.role, ""))
    if parser.name == "segformer":
        from .segformer import SegFormerParser

        return SegFormerParser(parser.source, found.paths[0], device=device)
    if parser.name == "grabcut":
        from .grabcut import GrabCutParser

        return GrabCutParser()
    from .ellipse import EllipseParser

    return EllipseParser()


def _load_miniature(folder: str | Path | None) -> tuple[FaceDetector, FaceParser]:
    from faceid_core.miniature import scorers

    detector_folder = None if folder is None else Path(folder) / "detector"
    parser_folder = None if folder is None else Path(folder) / "parser"
    return scorers.load_detector(detector_folder), scorers.load_parser(parser_folder)
