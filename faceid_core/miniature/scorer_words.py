"""The image-text scorer's vocabulary: the captions' words, and one id for all others."""

from __future__ import annotations

import random
import re

from . import captions

PADDING, UNKNOWN = 0, 1
LENGTH = 32  # words; the rest of a longer text is ignored

# Subjects of training captions. Invented names become unknown words, as every name does in use.
SUBJECTS = ("person", "a person", "a man", "a woman", "man", "woman", "xx", "xx xx")
_GLUE = (
    "a an the photo picture of face close up person man woman people girl boy someone child and with in on "
    "at holding wearing is her his their portrait"
)


def split(text: str) -> list[str]:
    """Lower-case words of a text, in order."""
    return re.findall(r"[a-z]+", text.lower())


def vocabulary() -> list[str]:
    """The known words in alphabetical order; word i has the id i + 2."""
    phrases = (
        captions.SCENE_PHRASES,
        captions.ATTRIBUTE_PHRASES,
        captions.OBJECT_PHRASES,
        captions.CLOTHES_PHRASES,
    )
    said = " ".join(phrase for group in phrases for phrase in group.values())
    return sorted(set(split(said)) | set(_GLUE.split()))


def encode(text: str, words: list[str], *, drop: float = 0.0, rng: random.Random | None = None) -> list[int]:
    """The ids of a text's words, padded to `LENGTH`.

    Args:
        words: from `vocabulary`, or as a trained scorer recorded it.
        drop: share of words replaced by `UNKNOWN`, for training.
        rng: draws the words to drop; without it none is dropped.
    """
    ids = {word: index + 2 for index, word in enumerate(words)}
    found = [
        UNKNOWN if drop and rng and rng.random() < drop else ids.get(word, UNKNOWN) for word in split(text)
    ]
    return (found + [PADDING] * LENGTH)[:LENGTH]
