"""A shard's pictures with what several metrics need of them, each looked for once: faces and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from faceid_core.faces.align import align
from faceid_core.faces.protocols import Face

from .scorers import Scorers
from .shards import ShardRow


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
        align(
            image,
            face.left_eye,
            face.right_eye,
            size=scorers.recogniser_pixels,
            eye_targets=scorers.recogniser_eye_targets,
        )[0]
        for image, face in seen
    ]
    return scorers.recogniser.embed(crops) if crops else np.empty((0, 1), np.float32)


def embed_reference(scorers: Scorers, photo: np.ndarray) -> np.ndarray | None:
    """Unit vector float32 [d] of the largest face of a reference photo [h, w, 3]; None if none is found."""
    face = largest_face(scorers.detector.detect([photo])[0])
    return None if face is None or not has_eyes(face) else embed(scorers, [(photo, face)])[0]
