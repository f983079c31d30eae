"""Stage outputs as bytes: JSON and PNG with fixed settings, so that equal content has equal digests."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from faceid_core import photos
from faceid_core.errors import DamagedInput, PhotoRejected
from faceid_core.store.cache import Manifest, Output
from faceid_core.store.keys import canonical_json

REJECTION = "rejection.json"


def json_output(value: Any) -> Output:
    """Canonical JSON."""
    return Output(canonical_json(value), "application/json")


def png_output(image: np.ndarray) -> Output:
    """A uint8 picture, [h, w] or [h, w, 3], as PNG."""
    return Output(photos.encode_png(image), "image/png")


def rejection_output(rejection: PhotoRejected) -> dict[str, Output]:
    """A rejection as a stage's only output: cached like any result, so a bad photo is examined once."""
    record = {
        "reason": rejection.reason,
        "sentence": rejection.sentence,
        "value": None if rejection.value is None else float(rejection.value),
        "threshold": None if rejection.threshold is None else float(rejection.threshold),
    }
    return {REJECTION: json_output(record)}


def read_rejection(manifest: Manifest, data: bytes) -> dict[str, Any]:
    """The record of a rejection, among a result's outputs. Raises DamagedInput if it is something else."""
    try:
        record = json.loads(data)
        texts = record["reason"], record["sentence"]
        figures = record["value"], record["threshold"]
    except (ValueError, KeyError, TypeError, RecursionError):
        texts, figures = (), ()
    sound = all(isinstance(text, str) for text in texts)
    sound &= all(figure is None or type(figure) in (int, float) for figure in figures)
    if not texts or not sound:
        raise DamagedInput(
            manifest.stage, manifest.stage_key, f"{REJECTION} says neither reason nor sentence"
        )
    return record


def read_json(data: bytes) -> Any:
    """Read back what json_output wrote."""
    return json.loads(data)


def read_png(data: bytes) -> np.ndarray:
    """Read back what png_output wrote."""
    return photos.decode_png(data)
