"""Copying: how much nearer a picture is to the very photo than to other pictures of the same person.

A method that learns the person draws faces as near to the photo as to any other picture; one that memorizes the photo
draws faces nearer to it. Likeness to the photo alone rewards both.

Source: the idea is the copy-paste score of WithAnyone (arXiv 2510.14975). The formula is a reconstruction, since only the
paper's abstract could be read: of angles between face embeddings, the mean of picture and other pictures minus that of
picture and photo, over the mean of other pictures and photo.
"""

from __future__ import annotations

import numpy as np

# Below this angle in radians the other pictures are the photo, to the recognizer.
LEAST_ANGLE = 0.01


def copying_of(pictures: np.ndarray, photo: np.ndarray, others: np.ndarray) -> np.ndarray | None:
    """The copying of each picture, -1 to 1; None where the recognizer does not tell the other pictures from the photo.

    0: as near to the photo as to the person's other pictures; 1: the photo itself; -1: as one of the others. With others
    made as the photo was, a picture that knows nothing of the photo has 0 on average.

    Args:
        pictures: unit vectors [n, d] of the faces; a row of NaN gives NaN.
        photo: unit vector [d].
        others: unit vectors [k, d], of other pictures of the person.
    """
    apart = _angles(others, photo[None]).mean()
    if apart < LEAST_ANGLE:
        return None
    return (_angles(pictures, others).mean(axis=1) - _angles(pictures, photo[None])[:, 0]) / apart


def _angles(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Angles in radians between unit vectors, [n, d] and [k, d] to [n, k]."""
    return np.arccos(np.clip(one @ two.T, -1.0, 1.0))
