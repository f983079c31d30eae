"""Which models a metric asks: the roles whose digests stand in the key of its scores."""

from __future__ import annotations

from collections.abc import Mapping

# Metric -> the models whose weights settle its values.
ROLES: Mapping[str, tuple[str, ...]] = {
    "identity": ("detector", "recognizer"),
    "detection": ("detector",),
    "concepts": ("image_text",),
    "image_text": ("image_text",),
    "attention": ("detector", "parser"),
    "leakage": ("detector", "parser", "image_text"),
    "copying": ("detector", "recognizer"),
    "identity_second": ("detector", "second_recognizer"),
    "image_text_second": ("second_image_text",),
    "diversity": ("embedder",),
    "attributes": ("detector", "attributes"),
    "flagged": ("safety_checker",),
}
# The miniature's image-text scorer names concepts; no model names concepts in photographs.
_WITHOUT_NAMER = {"concepts": ("image_text",), "leakage": ("image_text",)}
# Faces in pictures of photographs' models are found and parsed by the models of the photos.
_OF_THE_PHOTOS = {"detector": "face_detector", "parser": "face_parser"}


def photograph_roles(metric: str) -> dict[str, str]:
    """For the photographs' scorers: name of a model in the metric's stage key -> the model's role in the plan."""
    left_out = _WITHOUT_NAMER.get(metric, ())
    return {role: _OF_THE_PHOTOS.get(role, role) for role in ROLES[metric] if role not in left_out}
