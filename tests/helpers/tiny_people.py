"""Photos without a person for the tiny pipeline: fixed noise with a square for a face."""

from __future__ import annotations

import numpy as np

from faceid_core.personalize.slots import TrainingPhoto


def tiny_photo(number: int, *, class_word: str = "person") -> TrainingPhoto:
    """A 32 x 32 photo that its number settles; the mask is the middle quarter."""
    draws = np.random.default_rng(number)
    mask = np.zeros((32, 32), np.float32)
    mask[8:24, 8:24] = 1
    return TrainingPhoto(
        name=f"person-{number}",
        photo_digest=f"{number:064x}",
        image=draws.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        mask=mask,
        valid=np.ones((32, 32), bool),
        class_word=class_word,
    )
