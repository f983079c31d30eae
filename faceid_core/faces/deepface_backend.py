"""DeepFace's face detectors by their DeepFace names behind our protocol; nothing is ever downloaded here."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from faceid_core.geometry.protocols import Box, Face

from ..errors import ConfigurationError
from ..weights.catalog import VERSIONS
from ..weights.deepface_files import (
    DETECTOR_PACKAGES,
    cascade_folder,
    detector_files,
    missing_package,
    needs_package,
    serving,
)
from .cascade_eyes import EYE_CASCADE, find_eyes
from .deepface_readers import Found, reader_of

# Faces are looked for in a copy of at most this many pixels a side: the cascade's time grows with the area. Where
# nothing is found in a larger photo, its parts are searched at full size.
_SEARCH_SIDE_PIXELS = 1600
# A face found in whole in no part would be this large, and would have been seen in the copy.
_PART_OVERLAP_PIXELS = 320
# A hit without eyes whose weight is below this share of the best hit's is noise (folds, badges).
_LEAST_RELATIVE_WEIGHT = 0.7
# Of dlib's scores: portraits had 0.38 and more, folds in clothes up to 0.14.
_LEAST_SCORES = {"dlib": 0.3}
# These find boxes alone.
_WITHOUT_LANDMARKS = ("opencv", "ssd")
# How far, by its width, the middle of a face that the photo's side cuts in two may lie from that side.
_LARGEST_OFFSET = 0.35
# The width that the widest face has in the copy in which the cascade looks for further ones.
_SECOND_LOOK_FACE_PIXELS = 110


class DeepFaceDetector:
    """A DeepFace detector, by its DeepFace name.

    Args:
        files: that it reads; None for those in DeepFace's own folder, in OpenCV or in a package.

    Raises:
        MissingWeights: if a file is absent that DeepFace would download.
        ConfigurationError: for a name that is not in `DETECTOR_FILES`, or whose Python package is missing.
    """

    version = str(VERSIONS["detector"])

    def __init__(self, model: str = "opencv", files: Sequence[Path] | None = None):
        self.weight_files = detector_files(model) if files is None else tuple(files)
        self.name = f"deepface-{model}"
        self._model = model
        self._client = _build(model, self.weight_files)
        self._read = reader_of(model)
        self.searches_eyes = model in _WITHOUT_LANDMARKS
        self._eye_detector = cv2.CascadeClassifier(str(cascade_folder() / EYE_CASCADE))
        self._second = None if model in _WITHOUT_LANDMARKS else DeepFaceDetector("opencv")

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
        """See `protocols.FaceDetector`."""
        return [self._detect(image) for image in images]

    def look(self, image: np.ndarray) -> tuple[list[Face], list[Face]]:
        """See `protocols.Doubting`: OpenCV's cascade is asked, too, and counts where it finds both eyes."""
        faces, suspected = self._detect(image), []
        if faces and self._second is not None:
            scale = min(1.0, _SECOND_LOOK_FACE_PIXELS / max(face.width for face in faces))
            copy = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            seen = self._second.search(image, copy)
            suspected = [face for face in seen if face.left_eye is not None]
            suspected += self._cut_at_the_sides(copy, scale)
        return faces, suspected

    def _cut_at_the_sides(self, copy: np.ndarray, scale: float) -> list[Face]:
        """Faces that the photo's left or right side cuts in two: half a face and its mirror image are a whole one.

        Args:
            copy: of the photo, in which the widest face is `_SECOND_LOOK_FACE_PIXELS` wide.
            scale: of the copy.

        Returns:
            without eyes, in the photo's pixels; the boxes reach as far beyond the photo as into it.
        """
        wide, found = _SECOND_LOOK_FACE_PIXELS, []
        strip = min(copy.shape[1], round(1.2 * wide))
        for is_left in (True, False):
            part = copy[:, :strip] if is_left else copy[:, : -strip - 1 : -1]
            mirrored = np.concatenate([part[:, :wide][:, ::-1], part], axis=1)
            border = min(wide, strip)
            for each in self._read(self._client, np.ascontiguousarray(mirrored[:, :, ::-1])):
                x, y, w, h = each.box
                if abs(x + w / 2 - border) > _LARGEST_OFFSET * w or each.confidence < _LEAST_SCORES.get(
                    self._model, 0.0
                ):
                    continue
                left = -w / 2 if is_left else copy.shape[1] - w / 2
                box = (left / scale, y / scale, (left + w) / scale, (y + h) / scale)
                found.append(Face(box, None, None, self._confidence(each.confidence)))
        return found

    def search(self, image: np.ndarray, copy: np.ndarray) -> list[Face]:
        """The faces of a picture, in its pixels, that are seen in a smaller copy of it."""
        return self._search(image, copy)

    def _detect(self, image: np.ndarray) -> list[Face]:
        height, width = image.shape[:2]
        scale = min(1.0, _SEARCH_SIDE_PIXELS / max(height, width))
        if scale == 1:
            return self._search(image)
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        faces = self._search(image, small)
        if not faces:
            parts = [
                face
                for x, y in _parts(width, height)
                for face in self._search(
                    image, image[y:, x:][:_SEARCH_SIDE_PIXELS, :_SEARCH_SIDE_PIXELS], (x, y)
                )
                # Folds and leaves look like faces to a detector that sees enough of them; eyes are rarer.
                if face.left_eye is not None
            ]
            faces = _without_noise(sorted(parts, key=lambda face: (-face.confidence, face.box)), self._model)
        return faces

    def _search(
        self, image: np.ndarray, seen: np.ndarray | None = None, origin: tuple[int, int] | None = None
    ) -> list[Face]:
        """Faces, in the photo's pixels, of what the detector is shown.

        Args:
            image: the photo.
            seen: a smaller copy of the photo, or a part of it; None for the photo itself.
            origin: where that part begins in the photo; None if it is a copy.
        """
        seen = image if seen is None else seen
        height, width = image.shape[:2]
        ratio = (1.0, 1.0) if origin else (width / seen.shape[1], height / seen.shape[0])
        x, y = origin or (0, 0)
        faces = []
        least = _LEAST_SCORES.get(self._model, 0.0)
        # DeepFace works in OpenCV's channel order.
        for found in self._read(self._client, np.ascontiguousarray(seen[:, :, ::-1])):
            box = _scaled_box(found, ratio, (x, y), width, height)
            if _is_whole_picture(found, seen) or box is None or found.confidence < least:
                continue
            points = {name: (px * ratio[0] + x, py * ratio[1] + y) for name, (px, py) in found.points.items()}
            eyes = points.pop("left_eye", None), points.pop("right_eye", None)
            if self._model == "opencv" or None in eyes:
                eyes = find_eyes(self._eye_detector, image, box) or (None, None)
                points = {}
            faces.append(Face(box, *eyes, self._confidence(found.confidence), points))
        faces.sort(key=lambda face: (-face.confidence, face.box))
        return _without_noise(faces, self._model)

    def _confidence(self, reported: float) -> float:
        if self._model != "opencv":
            return float(min(1.0, max(0.0, reported)))
        # DeepFace reports (100 - w) / 100 for the cascade's weight w, which falls as the cascade grows surer;
        # w is about 3 for chance hits and 5 to 8 for portraits.
        return float(min(1.0, max(0.0, (1 - (reported or 1.0)) * 10)))


def _build(model: str, files: tuple[Path, ...]) -> Any:
    """DeepFace's own client for a detector, quiet and without its home folder."""
    if importlib.util.find_spec("deepface") is None:
        raise ConfigurationError(
            "the deepface package is not installed; install it or use the miniature faces"
        )
    package = DETECTOR_PACKAGES.get(model)
    if package and importlib.util.find_spec(package) is None:
        raise ConfigurationError(_needs(model, package))
    with serving(files):
        return _build_here(model, files)


def _build_here(model: str, files: tuple[Path, ...]) -> Any:
    from deepface.modules import modeling

    try:
        if model == "dlib":
            return _dlib_client(files[0])
        return modeling.build_model(task="face_detector", model_name=model)
    except (ImportError, AttributeError, ValueError) as error:
        package = missing_package(error)
        if package:
            raise ConfigurationError(_needs(model, package)) from error
        advice = (
            "; this version has no `solutions`, which DeepFace asks for: install an older one"
            if model == "mediapipe" and isinstance(error, AttributeError)
            else ""
        )
        raise ConfigurationError(
            f"DeepFace detector {model} cannot be loaded: {error}{advice}; or choose another with faces.detector"
        ) from error


def _needs(model: str, package: str) -> str:
    return f"DeepFace detector {model} {needs_package(package)}, or choose another with faces.detector"


def _dlib_client(predictor: Path) -> Any:
    """DeepFace's dlib client with the predictor's file given: its own loading looks in one folder only."""
    import dlib
    from deepface.models.face_detection.Dlib import DlibClient

    client = DlibClient.__new__(DlibClient)
    client.model = {
        "face_detector": dlib.get_frontal_face_detector(),
        "sp": dlib.shape_predictor(str(predictor)),
    }
    return client


def _parts(width: int, height: int) -> Iterator[tuple[int, int]]:
    """Corners (x, y) of overlapping parts that cover a photo."""
    step = _SEARCH_SIDE_PIXELS - _PART_OVERLAP_PIXELS
    for y in range(0, max(1, height - _PART_OVERLAP_PIXELS), step):
        for x in range(0, max(1, width - _PART_OVERLAP_PIXELS), step):
            yield x, y


def _scaled_box(
    found: Found, ratio: tuple[float, float], origin: tuple[int, int], width: int, height: int
) -> Box | None:
    """The found box in the photo, cut to it; None if nothing is left."""
    x, y, w, h = found.box
    x0, y0 = max(0.0, x * ratio[0] + origin[0]), max(0.0, y * ratio[1] + origin[1])
    x1 = min(float(width), (x + w) * ratio[0] + origin[0])
    y1 = min(float(height), (y + h) * ratio[1] + origin[1])
    return (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None


def _is_whole_picture(found: Found, seen: np.ndarray) -> bool:
    """DeepFace's answer for "nothing found": the whole picture with confidence 0."""
    x, y, w, h = found.box
    covers = x <= 0 and y <= 0 and x + w >= seen.shape[1] - 1 and y + h >= seen.shape[0] - 1
    return not found.confidence and covers


def _without_noise(faces: list[Face], model: str) -> list[Face]:
    """Leave out hits inside a surer hit, and the cascade's weak hits in which no eyes could be seen."""
    kept: list[Face] = []
    for face in faces:
        x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
        inside = any(other.box[0] < x < other.box[2] and other.box[1] < y < other.box[3] for other in kept)
        weak = face.left_eye is None and face.confidence < _LEAST_RELATIVE_WEIGHT * faces[0].confidence
        if not inside and not (weak and model == "opencv"):
            kept.append(face)
    return kept
