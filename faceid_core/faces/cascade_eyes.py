"""Finds the eyes for OpenCV's cascade detector, which returns faces without landmarks."""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np

from faceid_core.geometry.protocols import Box, Point
from faceid_core.weights.deepface_files import cascade_folder

# Eyes are detected in the face at several sizes, and the median is kept: one size alone may take a nostril or a brow for
# an eye, and has errors of up to 5 % of the eye distance.
_EYE_SEARCH_WIDTHS_PIXELS = (120, 160, 200, 240, 280)
_LEAST_AGREEING_WIDTHS = 2
# Overlapping hits that make an eye where the question is only whether there is any.
_LENIENT_NEIGHBORS = 3
EYE_CASCADE = "haarcascade_eye.xml"
# Where the eyes of an upright face can be, as fractions of its box.
_LOWEST_EYE = 0.62
_EYE_DISTANCES = (0.22, 0.70)
_STEEPEST_EYE_LINE = 0.6


def find_eyes(eye_detector: Any, image: np.ndarray, box: Box) -> tuple[Point, Point] | None:
    """The eyes inside a face's box, (left, right) in the photo, or None.

    Args:
        eye_detector: OpenCV's eye cascade.
        image: uint8 [h, w, 3], RGB.
        box: of the face in it.
    """
    x0, y0, x1, y1 = (round(value) for value in box)
    gray = cv2.cvtColor(image[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY)
    pairs = []
    for width in _EYE_SEARCH_WIDTHS_PIXELS:
        height = max(1, round(width * gray.shape[0] / gray.shape[1]))
        way = cv2.INTER_AREA if width < gray.shape[1] else cv2.INTER_CUBIC
        found = eye_detector.detectMultiScale(cv2.resize(gray, (width, height), interpolation=way), 1.1, 10)
        boxes = np.asarray(found, dtype=np.float64).reshape(-1, 4) / (width, height, width, height)
        pair = _best_pair(boxes)
        if pair is not None:
            pairs.append(pair)
    if len(pairs) < _LEAST_AGREEING_WIDTHS:
        return None
    (lx, ly), (rx, ry) = np.median(pairs, axis=0).tolist()
    wide, high = x1 - x0, y1 - y0
    return (x0 + lx * wide, y0 + ly * high), (x0 + rx * wide, y0 + ry * high)


def count_looks_with_eyes(image: np.ndarray, box: Box) -> int:
    """At how many of five sizes of a face the cascade sees at least one eye, 0 to 5; less strict than `find_eyes`.

    Args:
        image: uint8 [h, w, 3], RGB.
        box: of the face in it.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (round(value) for value in box)
    part = np.ascontiguousarray(image[max(0, y0) : min(height, y1), max(0, x0) : min(width, x1)])
    if 0 in part.shape:
        return 0
    gray, seen = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), 0
    for wide in _EYE_SEARCH_WIDTHS_PIXELS:
        high = max(1, round(wide * gray.shape[0] / gray.shape[1]))
        found = _cascade().detectMultiScale(cv2.resize(gray, (wide, high)), 1.1, _LENIENT_NEIGHBORS)
        seen += any(y + h / 2 < _LOWEST_EYE * high for _, y, _, h in found)
    return seen


@cache
def _cascade() -> Any:
    return cv2.CascadeClassifier(str(cascade_folder() / EYE_CASCADE))


def _best_pair(boxes: np.ndarray) -> list[list[float]] | None:
    """The largest two eye boxes [n, 4] (x, y, w, h as fractions of the face) that can be a pair of eyes.

    Returns:
        [[left x, left y], [right x, right y]], or None.
    """
    eyes = [(x + w / 2, y + h / 2, w * h) for x, y, w, h in boxes.tolist()]
    best, best_area = None, 0.0
    for left in eyes:
        for right in eyes:
            across, down = right[0] - left[0], right[1] - left[1]
            if not (left[0] < 0.55 and right[0] > 0.45 and max(left[1], right[1]) < _LOWEST_EYE):
                continue
            if not (
                _EYE_DISTANCES[0] < across < _EYE_DISTANCES[1] and abs(down) < _STEEPEST_EYE_LINE * across
            ):
                continue
            if left[2] + right[2] > best_area:
                best, best_area = [[left[0], left[1]], [right[0], right[1]]], left[2] + right[2]
    return best
