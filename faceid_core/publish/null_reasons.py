"""Why a metric has no value for an image, as one of the words of the contract of `image_metrics`."""

from __future__ import annotations

from faceid_core.evaluate.metric_rows import NO_REFERENCE_FACE

OTHER = "other"
# What a metric says in its detail -> the contract's word.
_REASONS = {
    NO_REFERENCE_FACE: "no_face_in_photo",
    "no face with eyes in the photo": "no_face_in_photo",
    "no face in the photo": "no_face_in_photo",
    "no face": "no_face",
    "no face with eyes": "no_face",
    "no eyes": "no_eyes",
    "there is no second recognizer": "no_model",
    "there is no such scorer": "no_model",
    "no scorer names concepts": "no_model",
    "no scorer names clothes": "no_model",
    "no scorer embeds pictures": "no_model",
    "no scorer reads attributes": "no_model",
    "the prompt expects nothing": "nothing_expected",
    "the only picture of its prompt": "only_image",
    "no attention was recorded": "not_recorded",
    "the attention is empty": "not_recorded",
    "nothing can be compared": "not_comparable",
    "too little background": "not_comparable",
    "no other pictures of the person": "not_comparable",
    "no face in the other pictures": "not_comparable",
    "the other pictures equal the photo": "not_comparable",
    "the photo's clothes are not named": "not_comparable",
    "the prompt asks for the photo's clothes": "asked_for",
    "the prompt asks for the photo's scene": "asked_for",
    "the prompt asks for a close-up": "asked_for",
}


def null_reason(value: float | None, detail: str) -> str | None:
    """The contract's word for a row without a value; None for a row with one."""
    return None if value is not None else _REASONS.get(detail, OTHER)
