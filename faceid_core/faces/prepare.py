"""Decode, detect, parse and mask one photo in one call, for `faceid prepare` and experiments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from faceid_core.geometry.align import FRAMINGS
from faceid_core.geometry.protocols import Box, FaceDetector, FaceParser

from .. import photos
from .detect import Detection, detect_face
from .mask import make_mask
from .parse import parse_face
from .picture import prepare_picture
from .quality import Limits
from .subject import reduced


@dataclass(frozen=True)
class Prepared:
    """The training data of one photo, and intermediate results.

    Args:
        image: the upright photo, uint8 [h, w, 3].
        detection: face, crop and quality.
        labels: uint8 [s, s], classes of the crop.
        mask: float32 [s, s], 0 or 1.
        verdict: about the mask, from `mask.make_mask`.
        parser: the parser's name.
        approximate: whether the labels come from geometry alone.
    """

    image: np.ndarray
    detection: Detection
    labels: np.ndarray
    mask: np.ndarray
    verdict: dict[str, Any]
    parser: str
    approximate: bool

    def picture(self) -> bytes:
        """A PNG of box, landmarks, crop, classes and mask side by side."""
        quality = self.detection.quality
        about = ", approximate" if self.approximate else ""
        captions = {
            "photo": f"face {quality['face_pixels']:.0f} px, sharpness {quality['sharpness']:.2f}",
            "crop": f"crop {self.detection.crop.shape[0]} px, {self.detection.valid.mean():.0%} of it photo",
            "classes": f"classes by {self.parser}{about}",
            "mask": f"mask {self.verdict['region']}, {self.verdict['area_share']:.0%} of the crop{about}",
        }
        return prepare_picture(self.image, self.detection, self.labels, self.mask, captions=captions)


def prepare_photo(
    data: bytes,
    *,
    detector: FaceDetector,
    parser: FaceParser,
    size: int = 64,
    region: str = "face",
    limits: Limits | None = None,
    framing: str = "close_up",
    max_covered_share: float | None = None,
    min_filled_share: float | None = None,
    face_box: Box | None = None,
) -> Prepared:
    """Take one photo through decode, detect, parse and mask.

    Args:
        data: the photo's bytes, untrusted.
        detector, parser: from `backends.load_faces`.
        size: side of the crop in pixels.
        region: of the mask, see `classes.REGIONS`.
        limits: None for the defaults.
        framing: of the crop, see `align.FRAMINGS`.
        max_covered_share, min_filled_share: see `mask.make_mask`.
        face_box: selects a face, in pixels of the upright photo.

    Raises:
        PhotoRejected: with any of the reasons of `photos.decode`, `detect.detect_face` and `mask.make_mask`.
    """
    limits = limits or Limits()
    image = photos.decode(data, max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)
    targets = FRAMINGS[framing]
    detection = detect_face(
        image,
        detector,
        face_box=reduced(face_box, photos.reduction(data, limits.max_pixels)),
        crop_pixels=size,
        eye_targets=targets,
        limits=limits,
    )
    labels = parse_face(detection.crop, parser, face=detection.face_in_crop())
    mask, verdict = make_mask(
        labels,
        region=region,
        valid=detection.valid,
        eye_targets=targets,
        max_covered_share=max_covered_share,
        min_filled_share=min_filled_share,
    )
    return Prepared(image, detection, labels, mask, verdict, parser.name, bool(parser.approximate))
