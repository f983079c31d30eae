"""The mask stage: selects the person's pixels of a crop and checks the mask."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from faceid_core.geometry.align import TRAINING_EYE_TARGETS, EyeTargets
from faceid_core.geometry.classes import INDEX, REGIONS

from ..errors import ConfigurationError, PhotoRejected

# Shares of the crop. A face in an aligned crop takes about a quarter of it.
MIN_AREA_SHARE = 0.03
_USUAL_AREA_SHARE = (0.08, 0.80)
# A region that the user pointed at, of whatever kind: stage parse labels its pixels so.
GIVEN, GIVEN_CLASS = "subject", "object"
# Eyes, nose and mouth as an ellipse, in eye distances: how far its center lies below the middle of the eyes, half width,
# half height. A beard is labeled as hair and covers nothing.
_FEATURES_ELLIPSE = (0.45, 0.7, 0.8)
_UNCOVERED = ("skin", "eyes", "brows", "mouth", "hair")


def make_mask(
    labels: np.ndarray,
    *,
    region: str = "face",
    valid: np.ndarray | None = None,
    min_area_share: float = MIN_AREA_SHARE,
    eye_targets: EyeTargets = TRAINING_EYE_TARGETS,
    max_covered_share: float | None = None,
    min_filled_share: float | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Turn labels into a mask and a verdict about it.

    Keeps the largest connected part of the region, without a parser's stray pixels, and closes its holes, since glasses
    are neither skin nor eyes but hide part of the face.

    Args:
        labels: uint8 [h, w], indices of `classes.CLASSES`.
        region: "face", "face_hair" or "head", see `classes.REGIONS`; or "subject", which the user
            gave and which keeps all its parts.
        valid: bool [h, w], False where there is no photo; such pixels are never in the mask.
        min_area_share: smallest share of the crop.
        eye_targets: where the crop's eyes are, as fractions of its side.
        max_covered_share: largest share of eyes, nose and mouth that may be labeled as something else; None: any.
        min_filled_share: least share of eyes, nose and mouth in the mask, below which it is not ok; None: any.

    Returns:
        mask float32 [h, w], 0 or 1.
        verdict: region, area_share, dropped_share (stray pixels, as a share of the region), touches_border,
            and ok: a usual area that touches no border and is filled; where limited, covered_share and filled_share.

    Raises:
        PhotoRejected: mask_empty or face_covered.
        ConfigurationError: if the region is unknown.
    """
    regions = REGIONS | {GIVEN: (GIVEN_CLASS,)}
    if region not in regions:
        raise ConfigurationError(f"mask region {region!r} is unknown; use one of {', '.join(REGIONS)}")
    wanted = np.isin(labels, [INDEX[name] for name in regions[region]])
    kept = wanted if region == GIVEN else _largest_part(wanted)
    mask = _close_holes(kept)
    if valid is not None:
        mask &= valid
    area = float(mask.mean())
    if area < min_area_share:
        sentence = (
            f"Only {area:.1%} of the cut-out could be made out as a face. Send a photo with the face "
            "uncovered, from the front and well lit."
        )
        if region == GIVEN:
            sentence = f"The mask covers only {area:.1%} of the cut-out. Send a mask of the whole subject."
        raise PhotoRejected("mask_empty", sentence, value=round(area, 4), threshold=min_area_share)
    covered = None
    if max_covered_share is not None:
        covered = round(covered_share(labels, eye_targets), 4)
        if covered > max_covered_share:
            sentence = (
                f"About {covered:.0%} of eyes, nose and mouth is covered. Send a photo without sunglasses, mask or hand "
                "before the face."
            )
            raise PhotoRejected("face_covered", sentence, value=covered, threshold=max_covered_share)
    touches = bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
    verdict = {
        "region": region,
        "area_share": round(area, 4),
        "dropped_share": round(1 - float(kept.sum()) / float(wanted.sum()), 4),
        "touches_border": touches,
        "ok": not touches and _USUAL_AREA_SHARE[0] <= area <= _USUAL_AREA_SHARE[1],
    }
    if covered is not None:
        verdict["covered_share"] = covered
    if min_filled_share is not None:
        filled = float(mask[_features(mask.shape[0], eye_targets)].mean())
        verdict["filled_share"] = round(filled, 4)
        verdict["ok"] = verdict["ok"] and filled >= min_filled_share
    return mask.astype(np.float32), verdict


def covered_share(labels: np.ndarray, eye_targets: EyeTargets) -> float:
    """Share of eyes, nose and mouth in an aligned crop that is labeled as neither face nor hair.

    Args:
        labels: uint8 [s, s].
        eye_targets: where the crop's eyes are, as fractions of its side.
    """
    inside = _features(labels.shape[0], eye_targets)
    return float(1 - np.isin(labels[inside], [INDEX[name] for name in _UNCOVERED]).mean())


def _features(side: int, eye_targets: EyeTargets) -> np.ndarray:
    """Eyes, nose and mouth of an aligned crop as an ellipse, bool [side, side]."""
    eyes = np.array(eye_targets) * side
    distance = float(np.linalg.norm(eyes[1] - eyes[0]))
    drop, half_width, half_height = (part * distance for part in _FEATURES_ELLIPSE)
    x, y = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5)
    middle = eyes.mean(axis=0)
    return ((x - middle[0]) / half_width) ** 2 + ((y - middle[1] - drop) / half_height) ** 2 <= 1


def _largest_part(wanted: np.ndarray) -> np.ndarray:
    count, parts, statistics, _ = cv2.connectedComponentsWithStats(wanted.astype(np.uint8), connectivity=8)
    if count <= 1:
        return np.zeros_like(wanted)
    # Part 0 is everything outside the region.
    return parts == 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))


def _close_holes(mask: np.ndarray) -> np.ndarray:
    """Fill the mask's holes: pixels that are not connected to a border around the crop."""
    outside = cv2.copyMakeBorder((~mask).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    _, parts = cv2.connectedComponents(outside, connectivity=4)
    return (parts != parts[0, 0])[1:-1, 1:-1] | mask
