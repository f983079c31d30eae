"""A shard's pictures with what several metrics need of them, each looked for once: faces and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from faceid_core.geometry.align import EyeTargets, align
from faceid_core.geometry.classes import INDEX
from faceid_core.geometry.protocols import Face

from .face_masks import moved_face
from .protocols import NamedConcepts
from .scorers import Scorers
from .shards import ShardRow


@dataclass(frozen=True)
class Close:
    """A face cut out so that its eyes lie at fixed places, and what the parser sees there.

    Args:
        crop: uint8 [s, s, 3].
        valid: bool [s, s], False where the crop reaches beyond the picture.
        labels: uint8 [s, s], the parser's classes.
        transform: float64 [2, 3], from the picture to the crop.
    """

    crop: np.ndarray
    valid: np.ndarray
    labels: np.ndarray
    transform: np.ndarray

    @property
    def background(self) -> np.ndarray:
        """What the parser takes for background and lies within the picture, bool [s, s]."""
        return (self.labels == INDEX["background"]) & self.valid


class Pictures:
    """Rows of a shard, opened for scoring.

    Made once and passed to `metrics.score` several times, it saves repeated work: the class word's pictures
    are embedded once and then compared with every person's photo.
    """

    def __init__(self, rows: Sequence[ShardRow], scorers: Scorers):
        self.rows, self.scorers = list(rows), scorers

    @cached_property
    def images(self) -> list[np.ndarray]:
        """The pictures, each uint8 [h, w, 3]."""
        return [row.image for row in self.rows]

    @cached_property
    def faces(self) -> list[Face | None]:
        """The largest face of each picture, or None."""
        return [largest_face(found) for found in self.scorers.detector.detect(self.images)]

    @cached_property
    def embeddings(self) -> np.ndarray:
        """Unit vectors float32 [n, d] of the faces; a row of NaN where there is none with two eyes."""
        seen = [
            (index, image, face)
            for index, (image, face) in enumerate(zip(self.images, self.faces, strict=True))
            if face is not None and has_eyes(face)
        ]
        vectors = embed(self.scorers, [(image, face) for _, image, face in seen])
        result = np.full((len(self.rows), vectors.shape[1]), np.nan, np.float32)
        result[[index for index, _, _ in seen]] = vectors
        return result

    @cached_property
    def second(self) -> Pictures | None:
        """The same pictures and faces, seen by the second recognizer; None if there is none."""
        second = self.scorers.second
        if second is None:
            return None
        view = Pictures(self.rows, replace(self.scorers, **vars(second), second=None))
        view.__dict__.update(images=self.images, faces=self.faces)
        return view

    @cached_property
    def directions(self) -> np.ndarray | None:
        """Unit vectors float32 [n, d] of whole pictures, alike ones close together; None if nothing embeds them."""
        embedder = self.scorers.embedder
        return None if embedder is None else embedder.embed_images(self.images)

    @cached_property
    def named(self) -> Sequence[NamedConcepts] | None:
        """What each picture shows; None if no scorer names concepts."""
        namer = self.scorers.namer
        if namer is None:
            return None
        return namer.concepts(self.images) if self.rows else []

    @cached_property
    def close(self) -> list[Close | None]:
        """The face of each picture cut out and parsed; None without a face with two eyes."""
        return close_up(self.images, self.faces, self.scorers)


def largest_face(faces: Sequence[Face]) -> Face | None:
    """The face with the largest box, or None if there is none."""
    return max(faces, key=lambda face: face.width * face.height, default=None)


def has_eyes(face: Face) -> bool:
    """Whether a face has two distinct eyes, so that it can be aligned."""
    if face.left_eye is None or face.right_eye is None:
        return False
    # Below one pixel the direction between the eyes is noise, and `align` refuses.
    return float(np.hypot(*np.subtract(face.right_eye, face.left_eye))) >= 1.0


def embed(scorers: Scorers, seen: Sequence[tuple[np.ndarray, Face]]) -> np.ndarray:
    """Unit vectors float32 [n, d] of one face with two eyes in each picture; [0, 1] if there are none."""
    crops = [
        cut_face(image, face, scorers.recognizer_pixels, scorers.recognizer_eye_targets)
        for image, face in seen
    ]
    return scorers.recognizer.embed(crops) if crops else np.empty((0, 1), np.float32)


def cut_face(image: np.ndarray, face: Face, pixels: int, eye_targets: EyeTargets | None) -> np.ndarray:
    """A face with two eyes cut out: uint8 [pixels, pixels, 3].

    Args:
        image: uint8 [h, w, 3].
        eye_targets: where the eyes go, as fractions of the side; None: the face's box with the eyes levelled.
    """
    targets = eye_targets or box_targets(face)
    return align(image, face.left_eye, face.right_eye, size=pixels, eye_targets=targets)[0]


def box_targets(face: Face) -> EyeTargets:
    """Where the eyes come to lie if a face is turned until they are level and its box fills the square.

    The box keeps its middle and its longer side, so that the face is not stretched.
    """
    x0, y0, x1, y1 = face.box
    left, right = np.array(face.left_eye), np.array(face.right_eye)
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
    return None if face is None or not has_eyes(face) else embed(scorers, [(photo, face)])[0]


def close_up(
    images: Sequence[np.ndarray], faces: Sequence[Face | None], scorers: Scorers
) -> list[Close | None]:
    """The face of each picture [h, w, 3] cut out as the parser wants it; None without a face with two eyes."""
    result: list[Close | None] = [None] * len(images)
    cut = [
        (
            index,
            face,
            align(
                image,
                face.left_eye,
                face.right_eye,
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
        [moved_face(face, transform) for _, face, (_, _, transform) in cut],
    )
    for label, (index, _, (crop, valid, transform)) in zip(labels, cut, strict=True):
        result[index] = Close(crop, valid, label, transform)
    return result
