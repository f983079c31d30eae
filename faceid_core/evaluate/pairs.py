"""Two people in one picture: whether both are there, each as the person who is meant, and how far they mix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from faceid_core.geometry.protocols import Face

from .pictures import embed_faces, has_eyes
from .scorers import Scorers


@dataclass(frozen=True)
class PairFigures:
    """What one picture of two people shows. Similarities are None unless both were found.

    Attributes:
        both_found: two faces with eyes, no more and no less.
        each_own: and each is nearer to another of the two than to the other one.
        in_order: and the prompt's first person is on the left.
        identity: mean similarity of a face to the person it is taken for.
        mixing: mean similarity of a face to the other person, above that of the two people's photos to each other.
    """

    both_found: bool
    each_own: bool = False
    in_order: bool = False
    identity: float | None = None
    mixing: float | None = None


def judge_pair(scorers: Scorers, image: np.ndarray, faces: Sequence[Face], known: np.ndarray) -> PairFigures:
    """Compare the faces of a picture with the two people.

    Args:
        scorers: with a recognizer.
        image: uint8 [h, w, 3].
        faces: all that the detector found in it.
        known: the recognizer's unit vectors of the people's photos, float32 [2, d], in the prompt's order.
    """
    if len(faces) != 2 or not all(map(has_eyes, faces)):
        return PairFigures(both_found=False)
    from_left = sorted(faces, key=lambda face: face.box[0])
    found = embed_faces(scorers, [(image, face) for face in from_left])  # [2, d]
    likeness = (found @ known.T).astype(float)  # [faces from left to right, people in the prompt's order]
    straight = bool(likeness[0, 0] > likeness[0, 1] and likeness[1, 1] > likeness[1, 0])
    crossed = bool(likeness[0, 0] < likeness[0, 1] and likeness[1, 1] < likeness[1, 0])
    own = max(np.trace(likeness), np.trace(likeness[::-1])) / 2  # the better of the two assignments
    other = likeness.sum() / 2 - own
    between = float(known[0] @ known[1])
    return PairFigures(True, straight or crossed, straight, float(own), float(other - between))
