"""Why a metric has no value for a picture: the contract's word, and what the row's detail says.

A metric gives one of these in the place of a detail. Its blob keeps the text, by which the word is found again.
"""

from __future__ import annotations

from dataclasses import dataclass

OTHER = "other"  # of scores that an earlier version wrote


@dataclass(frozen=True)
class NoValue:
    """A reason: a word of the contract of `image_metrics`, and the detail of the row."""

    reason: str
    text: str


NO_REFERENCE_FACE = NoValue("no_face_in_photo", "no face in the reference photo")
NO_REFERENCE_EYES = NoValue("no_face_in_photo", "no face with eyes in the photo")
NO_PHOTO_FACE = NoValue("no_face_in_photo", "no face in the photo")
NO_FACE = NoValue("no_face", "no face")
NO_FACE_WITH_EYES = NoValue("no_face", "no face with eyes")
NO_EYES = NoValue("no_eyes", "no eyes")
NO_SECOND_RECOGNIZER = NoValue("no_model", "there is no second recognizer")
NO_SUCH_SCORER = NoValue("no_model", "there is no such scorer")
NO_CONCEPTS = NoValue("no_model", "no scorer names concepts")
NO_CLOTHES = NoValue("no_model", "no scorer names clothes")
NO_EMBEDDINGS = NoValue("no_model", "no scorer embeds pictures")
NO_ATTRIBUTES = NoValue("no_model", "no scorer reads attributes")
NO_SAFETY_CHECKER = NoValue("no_model", "there is no safety checker")
NOTHING_EXPECTED = NoValue("nothing_expected", "the prompt expects nothing")
ONLY_PICTURE = NoValue("only_image", "the only picture of its prompt")
NO_ATTENTION = NoValue("not_recorded", "no attention was recorded")
EMPTY_ATTENTION = NoValue("not_recorded", "the attention is empty")
NOTHING_COMPARABLE = NoValue("not_comparable", "nothing can be compared")
LITTLE_BACKGROUND = NoValue("not_comparable", "too little background")
NO_OTHER_PICTURES = NoValue("not_comparable", "no other pictures of the person")
NO_OTHER_FACE = NoValue("not_comparable", "no face in the other pictures")
OTHERS_EQUAL_PHOTO = NoValue("not_comparable", "the other pictures equal the photo")
CLOTHES_NOT_NAMED = NoValue("not_comparable", "the photo's clothes are not named")
CLOTHES_ASKED_FOR = NoValue("asked_for", "the prompt asks for the photo's clothes")
SCENE_ASKED_FOR = NoValue("asked_for", "the prompt asks for the photo's scene")
CLOSE_UP_ASKED_FOR = NoValue("asked_for", "the prompt asks for a close-up")

_WORDS = {each.text: each.reason for each in list(globals().values()) if isinstance(each, NoValue)}


def null_reason(value: float | None, detail: str) -> str | None:
    """The contract's word for a row without a value; None for a row with one."""
    return None if value is not None else _WORDS.get(detail, OTHER)
