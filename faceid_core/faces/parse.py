"""The parse stage: a class for every pixel of an aligned crop."""

from __future__ import annotations

import numpy as np

from faceid_core.geometry.classes import CLASSES
from faceid_core.geometry.protocols import Face, FaceParser


def parse_face(crop: np.ndarray, parser: FaceParser, *, face: Face | None = None) -> np.ndarray:
    """Label the pixels of one crop.

    Args:
        crop: uint8 [s, s, 3], aligned.
        parser: see `protocols`.
        face: the face in the crop's coordinates, if it is known.

    Returns:
        uint8 [s, s], indices of `classes.CLASSES`.

    Raises:
        ValueError: if the parser breaks its contract.
    """
    labels = np.asarray(parser.parse([crop], None if face is None else [face]))
    if labels.shape != (1, *crop.shape[:2]):
        raise ValueError(
            f"parser {parser.name} gave labels {list(labels.shape)} for a crop {list(crop.shape)}"
        )
    if labels.dtype != np.uint8 or int(labels.max(initial=0)) >= len(CLASSES):
        raise ValueError(f"parser {parser.name} gave {labels.dtype} labels up to {labels.max(initial=0)}")
    return np.ascontiguousarray(labels[0])
