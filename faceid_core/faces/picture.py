"""One picture of a prepared photo: box and landmarks, crop, classes, mask."""

from __future__ import annotations

import cv2
import numpy as np

from faceid_core.geometry.classes import COLORS

from .. import photos
from .detect import Detection

_PANEL_PIXELS = 320
_WIDEST_PHOTO_PIXELS = 560
_NARROWEST_PHOTO_PIXELS = 240
_CAPTION_PIXELS = 30
_GAP_PIXELS = 8
_PAPER = (250, 250, 248)
_INK = (40, 40, 44)
_BOX = (40, 200, 90)
_EYES = ((250, 200, 30), (40, 160, 250))  # left, right


def prepare_picture(
    image: np.ndarray, detection: Detection, labels: np.ndarray, mask: np.ndarray, *, captions: dict[str, str]
) -> bytes:
    """The four panels side by side, as a PNG.

    Args:
        image: the photo, uint8 [h, w, 3].
        detection: the face in it.
        labels: classes of the crop, uint8 [s, s].
        mask: float32 [s, s], 0 to 1.
        captions: text below the panels "photo", "crop", "classes" and "mask".
    """
    panels = {
        "photo": draw_face(image, detection),
        "crop": _square(_crop_with_edges(detection)),
        "classes": _square(np.array(COLORS, np.uint8)[labels]),
        "mask": _square(overlay_mask(detection.crop, mask)),
    }
    columns = [_with_caption(panel, captions.get(name, name)) for name, panel in panels.items()]
    gap = np.full((columns[0].shape[0], _GAP_PIXELS, 3), _PAPER, np.uint8)
    row = [part for column in columns for part in (gap, column)]
    return photos.encode_png(np.hstack([*row, gap]))


def draw_face(image: np.ndarray, detection: Detection) -> np.ndarray:
    """The photo at panel height with the face's box, the crop's outline and the eyes: uint8 [h, w, 3]."""
    height, width = image.shape[:2]
    scale = min(_PANEL_PIXELS / height, _WIDEST_PHOTO_PIXELS / width)
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    panel = np.full((_PANEL_PIXELS, max(shape[0], _NARROWEST_PHOTO_PIXELS), 3), _PAPER, np.uint8)
    left, top = (panel.shape[1] - shape[0]) // 2, (_PANEL_PIXELS - shape[1]) // 2
    panel[top : top + shape[1], left : left + shape[0]] = small

    def place(point) -> tuple[int, int]:
        return round(point[0] * scale) + left, round(point[1] * scale) + top

    side = detection.crop.shape[0]
    corners = cv2.transform(
        np.array([[(0, 0), (side, 0), (side, side), (0, side)]], np.float64),
        cv2.invertAffineTransform(detection.transform),
    )[0]
    outline = np.array([place(corner) for corner in corners], np.int32)
    cv2.polylines(panel, [outline], True, (255, 255, 255), 1, cv2.LINE_AA)
    x0, y0, x1, y1 = detection.box
    cv2.rectangle(panel, place((x0, y0)), place((x1, y1)), _BOX, 2, cv2.LINE_AA)
    for eye, color in zip(detection.eyes, _EYES, strict=True):
        cv2.circle(panel, place(eye), 4, _INK, -1, cv2.LINE_AA)
        cv2.circle(panel, place(eye), 3, color, -1, cv2.LINE_AA)
    return panel


def overlay_mask(crop: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The crop, gray and dark outside the mask, uint8 [s, s, 3]."""
    gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None] * np.float32(0.35)  # [s, s, 1]
    share = mask.astype(np.float32)[..., None]
    return np.rint(crop * share + gray * (1 - share)).astype(np.uint8)


def _crop_with_edges(detection: Detection) -> np.ndarray:
    """The crop, hatched where it reaches beyond the photo."""
    crop = detection.crop.copy()
    rows, columns = np.indices(detection.valid.shape)
    step = max(2, crop.shape[0] // 32)
    crop[~detection.valid & ((rows + columns) // step % 2 == 0)] = 255
    return crop


def _square(image: np.ndarray) -> np.ndarray:
    """An image at panel size; small ones keep their pixels visible."""
    way = cv2.INTER_AREA if image.shape[0] > _PANEL_PIXELS else cv2.INTER_NEAREST
    return cv2.resize(image, (_PANEL_PIXELS, _PANEL_PIXELS), interpolation=way)


def _with_caption(panel: np.ndarray, text: str) -> np.ndarray:
    strip = np.full((_CAPTION_PIXELS, panel.shape[1], 3), _PAPER, np.uint8)
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    while size > 0.2 and cv2.getTextSize(text, font, size, 1)[0][0] > panel.shape[1] - 4:
        size -= 0.02
    cv2.putText(strip, text, (2, 20), font, size, _INK, 1, cv2.LINE_AA)
    return np.vstack([panel, strip])
