"""The scorers that metrics use, by backend; they are trained apart from the generator."""

from __future__ import annotations

from dataclasses import dataclass

from faceid_core.errors import ConfigurationError
from faceid_core.geometry.align import TRAINING_EYE_TARGETS, EyeTargets
from faceid_core.geometry.protocols import FaceDetector, FaceParser
from faceid_core.weights.catalog import MINIATURE_SETS, REPORTING

from .protocols import (
    AttributeReader,
    ConceptNamer,
    IdentityScorer,
    ImageTextScorer,
    PictureEmbedder,
    SafetyChecker,
)

BACKENDS = tuple(MINIATURE_SETS)


@dataclass(frozen=True)
class SecondRecognizer:
    """Another recognizer with its own crop; see `Scorers` for the fields."""

    recognizer: IdentityScorer
    recognizer_pixels: int
    recognizer_eye_targets: EyeTargets | None


@dataclass(frozen=True)
class Scorers:
    """All models that metrics use. Photographs' sets hold only those that a configured metric needs.

    Args:
        name: of the backend.
        detector: finds the faces of the generated pictures and of the reference photo.
        parser: labels the pixels of a crop aligned to `parser_eye_targets`.
        recognizer: embeds a crop aligned to `recognizer_eye_targets`.
        image_text: scores a picture against a text.
        namer: names concepts; None: the concepts metric then has no values.
        parser_pixels, recognizer_pixels: sides of the two crops.
        parser_eye_targets, recognizer_eye_targets: eye centers in them, as fractions of the side; None for the
            recognizer: the face's box with the eyes levelled.
        embedder: embeds whole pictures, or None.
        attributes: reads age and gender, or None.
        second: another recognizer, whose values are reported beside the first one's, or None.
        second_image_text: the same for pictures and texts.
        safety: flags pictures, or None.
    """

    name: str
    detector: FaceDetector
    parser: FaceParser
    recognizer: IdentityScorer | None
    image_text: ImageTextScorer | None
    namer: ConceptNamer | None
    parser_pixels: int
    recognizer_pixels: int
    recognizer_eye_targets: EyeTargets | None
    parser_eye_targets: EyeTargets = TRAINING_EYE_TARGETS
    embedder: PictureEmbedder | None = None
    attributes: AttributeReader | None = None
    second: SecondRecognizer | None = None
    second_image_text: ImageTextScorer | None = None
    safety: SafetyChecker | None = None


def load_scorers(backend: str) -> Scorers:
    """Load the miniature's scorers of a backend; nothing of another backend is read.

    Args:
        backend: of `BACKENDS`: "miniature" reports, "miniature-selection" may choose settings.

    Raises:
        ConfigurationError: if the backend is unknown.
        MissingWeights: if a model's files are absent.
    """
    if backend not in MINIATURE_SETS:
        raise ConfigurationError(f"scorers {backend!r} are unknown; use one of: {', '.join(BACKENDS)}")
    # Imported here because it loads torch, which the driver and the command line's help must not.
    from faceid_core.miniature import reporting_scorers
    from faceid_core.miniature import scorers as miniature

    module = reporting_scorers if backend == REPORTING else miniature
    image_text = module.load_image_text()
    return Scorers(
        name=backend,
        detector=module.load_detector(),
        parser=module.load_parser(),
        recognizer=module.load_recognizer(),
        image_text=image_text,
        namer=image_text,
        parser_pixels=miniature.SIZE,
        recognizer_pixels=miniature.SIZE,
        recognizer_eye_targets=miniature.RECOGNIZER_EYE_TARGETS,
    )
