"""A shard's pictures, with the faces, crops and embeddings that several metrics share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from faceid_core.geometry.align import EyeTargets, align
from faceid_core.geometry.classes import INDEX
from faceid_core.geometry.protocols import Face

from .face_masks import transform_face
from .protocols import NamedConcepts
from .scorers import Scorers
from .shards import ShardRow


@dataclass(frozen=True)
class FaceCrop:
    """A face cut out with its eyes at fixed positions, and the parser's labels.

    Args:
        pixels: uint8 [s, s, 3].
        valid: bool [s, s], False where the crop reaches beyond the picture.
        labels: uint8 [s, s], the parser's classes.
        transform: float64 [2, 3], from the picture to the crop.
    """

    pixels: np.ndarray
    valid: np.ndarray
    labels: np.ndarray
    transform: np.ndarray

    @property
    def background(self) -> np.ndarray:
        """Pixels within the picture that the parser labels background, bool [s, s]."""
        return (self.labels == INDEX["background"]) & self.valid


class Pictures:
    """Rows of a shard, with what metrics share computed once, at its first use.

    Passed to `metrics.score` several times, it saves repeated work: the class word's pictures are embedded once and
    then compared with every person's photo.

    Args:
        rows: of the shard.
        scorers: models that detect, crop and embed.
        detected: the same rows with the same detector; its images and faces are used.
    """

    def __init__(self, rows: Sequence[ShardRow], scorers: Scorers, *, detected: Pictures | None = None):
        self.rows, self.scorers, self._detected = list(rows), scorers, detected

    @cached_property
    def images(self) -> list[np.ndarray]:
        """The pictures, each uint8 [h, w, 3]."""
        return self._detected.images if self._detected else [row.image for row in self.rows]

    @cached_property
    def faces(self) -> list[Face | None]:
        """The largest face of each picture, or None."""
        if self._detected:
            return self._detected.faces
        return [largest_face(found) for found in self.scorers.detector.detect(self.images)]

    @cached_property
    def embeddings(self) -> np.ndarray:
        """Unit vectors float32 [n, d] of the faces; a row of NaN without a face with two eyes."""
        seen = [
            (index, image, face)
            for index, (image, face) in enumerate(zip(self.images, self.faces, strict=True))
            if face is not None and has_eyes(face)
        ]
        vectors = embed_faces(self.scorers, [(image, face) for _, image, face in seen])
        result = np.full((len(self.rows), vectors.shape[1]), np.nan, np.float32)
        result[[index for index, _, _ in seen]] = vectors
        return result

    @cached_property
    def by_second_recognizer(self) -> Pictures | None:
        """The same pictures and faces, embedded by the second recognizer; None if there is none."""
        second = self.scorers.second
        if second is None:
            return None
        scorers = replace(
            self.scorers,
            recognizer=second.recognizer,
            recognizer_pixels=second.recognizer_pixels,
            recognizer_eye_targets=second.recognizer_eye_targets,
            second=None,
        )
        return Pictures(self.rows, scorers, detected=self)

    @cached_property
    def image_embeddings(self) -> np.ndarray | None:
        """Unit vectors float32 [n, d] of whole pictures; None without an embedder."""
        embedder = self.scorers.embedder
        return None if embedder is None else embedder.embed_images(self.images)

    @cached_property
    def concepts(self) -> Sequence[NamedConcepts] | None:
        """The concepts that each picture shows; None if no scorer names concepts."""
        namer = self.scorers.namer
        if namer is None:
            return None
        return namer.concepts(self.images) if self.rows else []

    @cached_property
    def face_crops(self) -> list[FaceCrop | None]:
        """Each picture's face, cropped and parsed; None without a face with two eyes."""
        return crop_faces(self.images, self.faces, self.scorers)


def largest_face(faces: Sequence[Face]) -> Face | None:
    """The face with the largest box, or None if there is none."""
    return max(faces, key=lambda face: face.width * face.height, default=None)


def has_eyes(face: Face) -> bool:
    """Whether a face has two distinct eyes, so that it can be aligned."""
    if face.left_eye is None or face.right_eye is None:
        return False
    # Below one pixel the direction between the eyes is noise, and `align` refuses.
    return float(np.hypot(*np.subtract(face.right_eye, face.left_eye))) >= 1.0


def embed_faces(scorers: Scorers, seen: Sequence[tuple[np.ndarray, Face]]) -> np.ndarray:
    """Unit vectors float32 [n, d] of one face with two eyes in each picture; [0, 1] without pictures.

    Raises:
        ValueError: if no recognizer is loaded.
    """
    if not seen:
        return np.empty((0, 1), np.float32)
    if scorers.recognizer is None:
        raise ValueError(f"the scorers {scorers.name} have no recognizer, and a metric asks for one")
    crops = [
        crop_face(image, face, scorers.recognizer_pixels, scorers.recognizer_eye_targets)
        for image, face in seen
    ]
    return scorers.recognizer.embed(crops)


def crop_face(image: np.ndarray, face: Face, pixels: int, eye_targets: EyeTargets | None) -> np.ndarray:
    """Crop a face with two eyes.

    Args:
        image: uint8 [h, w, 3].
        pixels: side of the crop.
        eye_targets: where the eyes go, as fractions of the side; None: the face's box with the eyes levelled.

    Returns:
        uint8 [pixels, pixels, 3].
    """
    targets = eye_targets or eye_targets_of_box(face)
    return align(image, *face.eyes, size=pixels, eye_targets=targets)[0]


def eye_targets_of_box(face: Face) -> EyeTargets:
    """Eye targets that level the eyes and let the face's box fill the square.

    The box keeps its center and its longer side, so that the face is not stretched.
    """
    x0, y0, x1, y1 = face.box
    left, right = (np.array(eye) for eye in face.eyes)
    along = (right - left) / np.hypot(*(right - left))
    turn = np.array(
        [along, (-along[1], along[0])]
    )  # [2, 2], takes the line between the eyes to the horizontal
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    side = max(face.width, face.height)
    first, second = (tuple((turn @ (eye - middle) / side + 0.5).tolist()) for eye in (left, right))
    return first, second


def embed_reference(scorers: Scorers, photo: np.ndarray) -> np.ndarray | None:
    """Unit vector float32 [d] of the largest face of a reference photo [h, w, 3]; None if none is found."""
    face = largest_face(scorers.detector.detect([photo])[0])
    return None if face is None or not has_eyes(face) else embed_faces(scorers, [(photo, face)])[0]


def crop_faces(
    images: Sequence[np.ndarray], faces: Sequence[Face | None], scorers: Scorers
) -> list[FaceCrop | None]:
    """Crop and parse the face of each picture [h, w, 3]; None without a face with two eyes."""
    result: list[FaceCrop | None] = [None] * len(images)
    cut = [
        (
            index,
            face,
            align(
                image,
                *face.eyes,
                size=scorers.parser_pixels,
                eye_targets=scorers.parser_eye_targets,
            ),
        )
        for index, (image, face) in enumerate(zip(images, faces, strict=True))
        if face is not None and has_eyes(face)
    ]
    if not cut:
        return result
    labels = scorers.parser.parse(
        [crop for _, _, (crop, _, _) in cut],
        [transform_face(face, transform) for _, face, (_, _, transform) in cut],
    )
    for label, (index, _, (crop, valid, transform)) in zip(labels, cut, strict=True):
        result[index] = FaceCrop(crop, valid, label, transform)
    return result
