"""Stage detect: untrusted bytes to a safe picture, one face, landmarks and an aligned crop; or a subject as given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from faceid_core import photos
from faceid_core.errors import ConfigurationError, PhotoRejected
from faceid_core.faces.detect import detect_face
from faceid_core.faces.quality import Limits
from faceid_core.faces.subject import cut_subject, read_subject_mask, reduced
from faceid_core.geometry.align import FRAMINGS
from faceid_core.progress import ProgressCallback
from faceid_core.stages.executing.stage import Inputs, Outputs, StageResult
from faceid_core.stages.files import json_output, png_output, rejection_output
from faceid_core.stages.models import Models
from faceid_core.stages.work import Work


def execute(
    works: Sequence[Work], inputs: Sequence[Inputs], models: Models, on_progress: ProgressCallback
) -> Iterator[StageResult]:
    """Decode, detect and align each photo; a rejection is a result like any other.

    Outputs: crop.png, valid.png, detection.json (and subject.png), or rejection.json.
    """
    for index, (work, blobs) in enumerate(zip(works, inputs, strict=True)):
        outputs: Outputs | Exception
        try:
            outputs = _aligned(blobs, work.call.parameters, models)
        except PhotoRejected as rejection:
            if rejection.reason == photos.HEIC_UNAVAILABLE:
                # The driver has the plugin: this is the worker's fault, not the photo's, and must not be kept.
                outputs = ConfigurationError(
                    "the package pillow-heif is missing on a worker; install it there as well"
                )
            else:
                outputs = rejection_output(rejection)
        on_progress(work.subject, 1, 1)
        yield index, outputs, {}


def _aligned(blobs: Inputs, parameters: Mapping[str, Any], models: Models) -> Outputs:
    """The outputs for a photo; raises PhotoRejected."""
    limits = Limits.of(parameters)
    image = photos.decode(blobs["photo"], max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)
    reduction = photos.reduction(blobs["photo"], limits.max_pixels)
    if "subject_box" in parameters or "subject_mask" in blobs:
        return _given(image, blobs, parameters, reduction)
    found = detect_face(
        image,
        models.detector,
        face_box=reduced(parameters["face_box"], reduction),
        crop_pixels=parameters["crop_pixels"],
        eye_targets=FRAMINGS[parameters.get("framing", "close_up")],
        limits=limits,
    )
    return {
        "crop.png": png_output(found.crop),
        "valid.png": png_output(found.valid.astype("uint8") * 255),
        "detection.json": json_output(found.facts()),
    }


def _given(image: np.ndarray, blobs: Inputs, parameters: Mapping[str, Any], reduction: float) -> Outputs:
    """The outputs for a subject that the user pointed at; raises PhotoRejected."""
    mask = None
    if "subject_mask" in blobs:
        limits = {name: parameters[name] for name in ("max_bytes", "max_pixels")}
        mask = read_subject_mask(blobs["subject_mask"], **limits)
    cut = cut_subject(
        image,
        box=reduced(parameters.get("subject_box"), reduction),
        mask=mask,
        crop_pixels=parameters["crop_pixels"],
        least_pixels=parameters["min_face_pixels"],
    )
    return {
        "crop.png": png_output(cut.crop),
        "valid.png": png_output(cut.valid.astype("uint8") * 255),
        "subject.png": png_output(cut.inside.astype("uint8") * 255),
        "detection.json": json_output(cut.facts()),
    }
