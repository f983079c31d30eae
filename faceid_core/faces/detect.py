"""The detect stage: chooses the face of a photo, checks its quality and aligns its crop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from faceid_core.geometry.align import (
    FACE_TEMPLATE,
    TRAINING_EYE_TARGETS,
    EyeTargets,
    align,
    transform_points,
)
from faceid_core.geometry.protocols import Box, Doubting, Face, FaceDetector, Point

from ..errors import PhotoRejected
from .quality import Limits, check, check_blur_without_eyes, measure

# Smallest intersection over union of a face and the box that selects it.
_MIN_OVERLAP = 0.1
# A photo is turned in a copy of this size: telephones' turned photos show large faces.
_TURNED_SIDE_PIXELS = 800
# Masks and patterns upside down look like faces, too, less surely.
_SURE_TURNED = 0.9
_BELOW_THE_EYES = ("nose", "nose_base", "mouth_left", "mouth_right")


@dataclass(frozen=True)
class Detection:
    """One detected face and its crop.

    Args:
        box: (x0, y0, x1, y1) in the photo.
        eyes: (left, right) in the photo, see `protocols` for sides and coordinates.
        confidence: the detector's, 0 to 1.
        crop: uint8 [s, s, 3], aligned.
        valid: bool [s, s], False where the crop reaches beyond the photo.
        transform: float64 [2, 3], photo to crop coordinates.
        quality: figures from `quality.measure`.
        others: number of further faces, ignored as background or because `face_box` selects this one.
        landmarks: further points in the photo that the detector gave.
        warnings: what is wrong with the photo but does not reject it, as sentences.
    """

    box: Box
    eyes: tuple[Point, Point]
    confidence: float
    crop: np.ndarray
    valid: np.ndarray
    transform: np.ndarray
    quality: dict[str, float]
    others: int
    landmarks: Mapping[str, Point] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def face_in_crop(self) -> Face:
        """The face in the crop's coordinates, for a parser."""
        return _into_crop(self.box, self.eyes, self.confidence, self.transform, self.landmarks)

    def facts(self) -> dict[str, Any]:
        """Everything but the pixels, as plain JSON values; `face_from_facts` reads it back."""
        facts = {
            "box": [round(value, 3) for value in self.box],
            "eyes": [[round(value, 3) for value in eye] for eye in self.eyes],
            "confidence": round(self.confidence, 4),
            "transform": [[float(value) for value in row] for row in self.transform],
            "quality": self.quality,
            "others": self.others,
        }
        if self.warnings:
            facts["warnings"] = list(self.warnings)
        if self.landmarks:
            facts["landmarks"] = {
                name: [round(value, 3) for value in point] for name, point in self.landmarks.items()
            }
        return facts


def face_from_facts(facts: dict[str, Any]) -> Face:
    """The face in the crop's coordinates, from `Detection.facts`."""
    left, right = (tuple(eye) for eye in facts["eyes"])
    landmarks = {name: tuple(point) for name, point in facts.get("landmarks", {}).items()}
    transform = np.array(facts["transform"])
    return _into_crop(tuple(facts["box"]), (left, right), facts["confidence"], transform, landmarks)


def detect_face(
    image: np.ndarray,
    detector: FaceDetector,
    *,
    face_box: Box | None = None,
    crop_pixels: int = 64,
    eye_targets: EyeTargets = TRAINING_EYE_TARGETS,
    limits: Limits | None = None,
) -> Detection:
    """Detect the one face of a photo and crop it.

    Args:
        image: uint8 [h, w, 3], upright.
        detector: see `protocols`.
        face_box: selects a face, in pixels of the upright photo; None: there must be only one.
        crop_pixels: side of the crop.
        eye_targets: where the eyes go, as fractions of the side.
        limits: None for the defaults.

    Raises:
        PhotoRejected: no_face, turned_photo, several_faces, eyes_not_found, or one of `quality.check`.
    """
    limits = limits or Limits()
    found, suspected = (
        detector.look(image) if isinstance(detector, Doubting) else (detector.detect([image])[0], [])
    )
    if not found and face_box is None and isinstance(detector, Doubting):
        _refuse_turned(image, detector)
    face = _choose(found, suspected, face_box, limits)
    if face.left_eye is None or face.right_eye is None:
        check_blur_without_eyes(image, face.box, limits)
        raise PhotoRejected("eyes_not_found", _no_eyes(detector))
    face = _with_ordered_eyes(face)
    landmarks = {name: point for name, point in face.landmarks.items() if name in FACE_TEMPLATE}
    try:
        quality = measure(image, face, limits)
        crop, valid, transform = align(
            image,
            *face.eyes,
            size=crop_pixels,
            eye_targets=eye_targets,
            landmarks=landmarks,
        )
    except ValueError as error:
        # Eyes that coincide or lie off the photo are no pair of eyes.
        sentence = "The two eyes could not be distinguished. Send a photo from the front with the eyes open."
        raise PhotoRejected("eyes_not_found", sentence) from error
    warnings = check(quality, limits)
    others = len(found) - 1
    return Detection(
        face.box, face.eyes, face.confidence, crop, valid, transform, quality, others, landmarks, warnings
    )


def _no_eyes(detector: FaceDetector) -> str:
    """The sentence for a face without eyes: a search that often fails is blamed, and not the person."""
    if isinstance(detector, Doubting) and detector.searches_eyes:
        return (
            "A face was found, but the search for its eyes failed, as it does on many a good portrait: "
            f"the detector {detector.name.removeprefix('deepface-')} knows no landmarks. Set faces.detector to dlib "
            "(or auto, where dlib is installed), or send a photo in which both eyes are plainly seen."
        )
    return "A face was found, but not both of its eyes. Send a photo from the front with the eyes open."


def _refuse_turned(image: np.ndarray, detector: Doubting) -> None:
    """Reject a photo in which a face is found only after a turn.

    Raises:
        PhotoRejected: turned_photo.
    """
    height, width = image.shape[:2]
    scale = min(1.0, _TURNED_SIDE_PIXELS / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    for quarters, way in ((1, "to the left"), (3, "to the right"), (2, "upside down")):
        faces, _ = detector.look(np.ascontiguousarray(np.rot90(image, quarters)))
        if any(face.left_eye is not None and face.confidence >= _SURE_TURNED for face in faces):
            how = "by half a turn" if quarters == 2 else f"by a quarter turn {way}"
            sentence = (
                f"The photo does not stand upright: a face was found only after turning it {how}. Turn it so in a "
                "picture viewer, save it and send it again."
            )
            raise PhotoRejected("turned_photo", sentence, value=90 * quarters, threshold=0)


def _choose(found: list[Face], suspected: list[Face], face_box: Box | None, limits: Limits) -> Face:
    if not found:
        sentence = "No face was found. Send a photo that shows one face from the front, well lit."
        raise PhotoRejected("no_face", sentence, value=0, threshold=1)
    if face_box is not None:
        best = max(found, key=lambda face: _overlap(face.box, face_box))
        overlap = _overlap(best.box, face_box)
        if overlap < _MIN_OVERLAP:
            sentence = "No face was found at face_box. It counts pixels of the upright photo."
            raise PhotoRejected("no_face", sentence, value=round(overlap, 3), threshold=_MIN_OVERLAP)
        return best
    widest = max(face.width for face in found)
    near = [face for face in found if face.width >= limits.min_relative_size * widest]
    # A face at the border or half hidden is seen by one of two methods, or less surely; it is a person all the same.
    near += [
        face
        for face in suspected
        if face.width >= limits.min_relative_size * widest
        and not any(_overlap(face.box, other.box) > 0 for other in near)
    ]
    if len(near) > 1:
        sentence = (
            f"{len(near)} faces were found. Send a photo of one person, or give face_box to choose one."
        )
        raise PhotoRejected("several_faces", sentence, value=len(near), threshold=1)
    return near[0]


def _with_ordered_eyes(face: Face) -> Face:
    """The face with its eyes in order: above nose and mouth, or else the left one first.

    A detector may name eyes by the person's sides, or by the picture's sides in an inverted picture.
    """
    (lx, ly), (rx, ry) = face.eyes
    below = [face.landmarks[name] for name in _BELOW_THE_EYES if name in face.landmarks]
    if below:
        x, y = np.mean(below, axis=0) - ((lx + rx) / 2, (ly + ry) / 2)
        wrong = (rx - lx) * y - (ry - ly) * x < 0
    else:
        wrong = lx > rx
    if not wrong:
        return face
    other = {"left": "right", "right": "left"}
    landmarks = {
        "_".join(other.get(part, part) for part in name.split("_")): point
        for name, point in face.landmarks.items()
    }
    return replace(face, left_eye=face.right_eye, right_eye=face.left_eye, landmarks=landmarks)


def _overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)


def _into_crop(
    box: Box,
    eyes: tuple[Point, Point],
    confidence: float,
    transform: np.ndarray,
    landmarks: Mapping[str, Point],
) -> Face:
    x0, y0, x1, y1 = box
    corners = transform_points(transform, [(x0, y0), (x1, y0), (x0, y1), (x1, y1)])  # [4, 2]
    # A rotated box becomes the upright box with the same center and its own scaled sides.
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    center, half = corners.mean(axis=0), np.array([x1 - x0, y1 - y0]) * scale / 2
    (ax, ay), (bx, by) = transform_points(transform, eyes).tolist()
    points = {name: tuple(transform_points(transform, [at])[0].tolist()) for name, at in landmarks.items()}
    upright = (*(center - half).tolist(), *(center + half).tolist())
    return Face(upright, (ax, ay), (bx, by), confidence, points)
