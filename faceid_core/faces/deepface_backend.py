"""DeepFace's face detectors behind our protocol: `opencv` needs no download, others need their files."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import ConfigurationError, MissingWeights
from ..weights.catalogue import DETECTORS
from ..weights.deepface_files import find_files, prepare_deepface
from .protocols import Box, Face, Point

# Files that DeepFace 0.0.103 loads from its weights folder, and would download if they were not there.
WEIGHT_FILES: dict[str, tuple[str, ...]] = {
    "opencv": (),
    "yunet": ("face_detection_yunet_2023mar.onnx",),
    "ssd": ("deploy.prototxt", "res10_300x300_ssd_iter_140000.caffemodel"),
    "centerface": ("centerface.onnx",),
    "dlib": ("shape_predictor_5_face_landmarks.dat",),
}
_CASCADES = ("haarcascade_frontalface_default.xml", "haarcascade_eye.xml")

# Faces are looked for in a copy of at most this many pixels a side: the cascade's time grows with the area,
# and a face that is too small there is too small to learn from.
_SEARCH_SIDE_PIXELS = 1600
# Eyes are looked for in the face at several sizes, and the median is kept: one size alone may take a nostril
# or a brow for an eye, and is off by up to 5 % of the eye distance.
_EYE_SEARCH_WIDTHS_PIXELS = (120, 160, 200, 240, 280)
_LEAST_AGREEING_WIDTHS = 2
# Where the eyes of an upright face can be, as fractions of its box.
_LOWEST_EYE = 0.62
_EYE_DISTANCES = (0.22, 0.70)
_STEEPEST_EYE_LINE = 0.6
# A hit without eyes whose weight is below this share of the best hit's is noise (folds, badges).
_LEAST_RELATIVE_WEIGHT = 0.7


class DeepFaceDetector:
    """A DeepFace detector, by its DeepFace name.

    Raises:
        MissingWeights: if a file is absent that DeepFace would download.
        ConfigurationError: for a name that is not in `WEIGHT_FILES`, or whose Python package is missing.
    """

    version = "1"

    def __init__(self, model: str = "opencv"):
        self.weight_files = find_weights(model)
        self.name = f"deepface-{model}"
        self._model = model
        self._client = _build(model)

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
        """See `protocols.FaceDetector`."""
        return [self._detect(image) for image in images]

    def _detect(self, image: np.ndarray) -> list[Face]:
        height, width = image.shape[:2]
        scale = min(1.0, _SEARCH_SIDE_PIXELS / max(height, width))
        small = (
            cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
        )
        ratio = width / small.shape[1], height / small.shape[0]
        # DeepFace works in OpenCV's channel order.
        regions = self._client.detect_faces(np.ascontiguousarray(small[:, :, ::-1]))
        faces = []
        for region in regions:
            box = _scaled_box(region, ratio, width, height)
            if box is None or _is_whole_picture(box, width, height, region.confidence):
                continue
            if self._model == "opencv":
                eyes = self._find_eyes(image, box)
            else:
                eyes = _scaled_eyes(region, ratio)
            left, right = eyes if eyes else (None, None)
            faces.append(Face(box, left, right, self._confidence(region.confidence)))
        faces.sort(key=lambda face: (-face.confidence, face.box))
        return _without_noise(faces) if self._model == "opencv" else faces

    def _confidence(self, reported: float | None) -> float:
        if self._model != "opencv":
            return float(min(1.0, max(0.0, reported or 0.0)))
        # DeepFace reports (100 - w) / 100 for the cascade's weight w, which falls as the cascade grows surer;
        # w is about 3 for chance hits and 5 to 8 for portraits.
        return float(min(1.0, max(0.0, (1 - (reported or 1.0)) * 10)))

    def _find_eyes(self, image: np.ndarray, box: Box) -> tuple[Point, Point] | None:
        """The eyes inside a face's box, (left, right) in the photo, or None."""
        x0, y0, x1, y1 = (round(value) for value in box)
        grey = cv2.cvtColor(image[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY)
        pairs = []
        for width in _EYE_SEARCH_WIDTHS_PIXELS:
            height = max(1, round(width * grey.shape[0] / grey.shape[1]))
            way = cv2.INTER_AREA if width < grey.shape[1] else cv2.INTER_CUBIC
            found = self._client.model["eye_detector"].detectMultiScale(
                cv2.resize(grey, (width, height), interpolation=way), 1.1, 10
            )
            boxes = np.asarray(found, dtype=np.float64).reshape(-1, 4) / (width, height, width, height)
            pair = _best_pair(boxes)
            if pair is not None:
                pairs.append(pair)
        if len(pairs) < _LEAST_AGREEING_WIDTHS:
            return None
        (lx, ly), (rx, ry) = np.median(pairs, axis=0).tolist()
        wide, high = x1 - x0, y1 - y0
        return (x0 + lx * wide, y0 + ly * high), (x0 + rx * wide, y0 + ry * high)


def find_weights(model: str) -> tuple[Path, ...]:
    """The files that a DeepFace detector reads, so that they can be locked by digest.

    Raises:
        MissingWeights, ConfigurationError: see `DeepFaceDetector`.
    """
    if model not in WEIGHT_FILES:
        known = ", ".join(WEIGHT_FILES)
        raise ConfigurationError(f"DeepFace detector {model!r} is not supported here; use one of {known}")
    if model != "opencv":
        return find_files(DETECTORS[model])
    files = tuple(Path(cv2.__file__).parent / "data" / name for name in _CASCADES)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise MissingWeights(
            f"DeepFace detector {model}: {', '.join(missing)} not found in {files[0].parent}; "
            "install opencv-contrib-python-headless below version 5, which ships them"
        )
    return files


def _build(model: str) -> Any:
    """DeepFace's own client for a detector, quiet and without its home folder."""
    if importlib.util.find_spec("deepface") is None:
        raise ConfigurationError(
            "the deepface package is not installed; install it or use the miniature faces"
        )
    prepare_deepface()
    from deepface.modules import modeling

    try:
        return modeling.build_model(task="face_detector", model_name=model)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"DeepFace detector {model} cannot be loaded: {error}") from error


def _scaled_box(region: Any, ratio: tuple[float, float], width: int, height: int) -> Box | None:
    """The region's box in the photo, cut to it; None if nothing is left."""
    x0, y0 = max(0.0, float(region.x) * ratio[0]), max(0.0, float(region.y) * ratio[1])
    x1 = min(float(width), float(region.x + region.w) * ratio[0])
    y1 = min(float(height), float(region.y + region.h) * ratio[1])
    return (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None


def _is_whole_picture(box: Box, width: int, height: int, confidence: float | None) -> bool:
    """DeepFace's answer for "nothing found": the whole picture with confidence 0."""
    return not confidence and box[0] <= 0 and box[1] <= 0 and box[2] >= width - 1 and box[3] >= height - 1


def _scaled_eyes(region: Any, ratio: tuple[float, float]) -> tuple[Point, Point] | None:
    """(left, right) in the picture's sense; DeepFace counts sides from the person, in whole pixels."""
    if region.left_eye is None or region.right_eye is None:
        return None
    first, second = (
        ((float(eye[0]) + 0.5) * ratio[0], (float(eye[1]) + 0.5) * ratio[1])
        for eye in (region.right_eye, region.left_eye)
    )
    return (first, second) if first[0] <= second[0] else (second, first)


def _best_pair(boxes: np.ndarray) -> list[list[float]] | None:
    """The largest two eye boxes [n, 4] (x, y, w, h as fractions of the face) that can be a pair of eyes.

    Returns:
        [[left x, left y], [right x, right y]], or None.
    """
    eyes = [(x + w / 2, y + h / 2, w * h) for x, y, w, h in boxes.tolist()]
    best, best_area = None, 0.0
    for left in eyes:
        for right in eyes:
            across, down = right[0] - left[0], right[1] - left[1]
            if not (left[0] < 0.55 and right[0] > 0.45 and max(left[1], right[1]) < _LOWEST_EYE):
                continue
            if not (
                _EYE_DISTANCES[0] < across < _EYE_DISTANCES[1] and abs(down) < _STEEPEST_EYE_LINE * across
            ):
                continue
            if left[2] + right[2] > best_area:
                best, best_area = [[left[0], left[1]], [right[0], right[1]]], left[2] + right[2]
    return best


def _without_noise(faces: list[Face]) -> list[Face]:
    """Leave out hits inside a surer hit, and weak hits in which no eyes could be seen."""
    kept: list[Face] = []
    for face in faces:
        x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
        inside = any(other.box[0] < x < other.box[2] and other.box[1] < y < other.box[3] for other in kept)
        weak = face.left_eye is None and face.confidence < _LEAST_RELATIVE_WEIGHT * faces[0].confidence
        if not inside and not weak:
            kept.append(face)
    return kept
