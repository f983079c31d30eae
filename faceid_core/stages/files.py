"""Stage outputs as bytes: JSON and PNG with fixed settings, so that equal content has equal digests."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from faceid_core.errors import PhotoRejected
from faceid_core.store.cache import Output
from faceid_core.store.keys import canonical_json

REJECTION = "rejection.json"


def json_output(value: Any) -> Output:
    """Canonical JSON."""
    return Output(canonical_json(value), "application/json")


def png_output(image: np.ndarray) -> Output:
    """A uint8 picture, [h, w] or [h, w, 3], as PNG."""
    from faceid_core import photos

    return Output(photos.encode_png(image), "image/png")


def rejection_output(rejection: PhotoRejected) -> dict[str, Output]:
    """A rejection as a stage's only output: cached like any result, so a bad photo costs one look."""
    record = {
        "reason": rejection.reason,
        "sentence": rejection.sentence,
        "value": None if rejection.value is None else float(rejection.value),
        "threshold": None if rejection.threshold is None else float(rejection.threshold),
    }
    return {REJECTION: json_output(record)}


def read_json(data: bytes) -> Any:
    """Read back what json_output wrote."""
    return json.loads(data)


def read_png(data: bytes) -> np.ndarray:
    """Read back what png_output wrote."""
    from faceid_core import photos

    return photos.decode_png(data)
