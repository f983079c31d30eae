"""Many small pictures on one sheet, each with a word below: who, and what became of the photo."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from faceid_core.photos import encode_png
from faceid_core.report.contact_sheet import shortened

_INK, _PAPER, _EMPTY = (28, 28, 26), (255, 255, 255), (238, 238, 234)
_COLORS = {"usable": (26, 127, 55), "rejected": (176, 96, 0), "failed": (190, 30, 45)}
_GAP, _LINE = 6, 13


def thumbnail_sheet(
    cells: Sequence[tuple[str, str, str, np.ndarray | None]], *, side: int = 96, columns: int = 0
) -> bytes:
    """A PNG of thumbnails in reading order.

    Args:
        cells: (name, outcome, reason, picture uint8 [h, w, 3] at most `side` pixels a side, or None) of each.
        side: of a cell in pixels.
        columns: of the sheet; 0 makes it about 4:3.
    """
    columns = columns or max(4, math.ceil(math.sqrt(len(cells) * 4 / 3)))
    rows = max(1, math.ceil(len(cells) / columns))
    wide, high = side + _GAP, side + 2 * _LINE + _GAP
    sheet = Image.new("RGB", (columns * wide + _GAP, rows * high + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    for place, (name, outcome, reason, picture) in enumerate(cells):
        left, top = _GAP + place % columns * wide, _GAP + place // columns * high
        if picture is None:
            pen.rectangle((left, top, left + side - 1, top + side - 1), _EMPTY)
        else:
            at = left + (side - picture.shape[1]) // 2, top + (side - picture.shape[0]) // 2
            sheet.paste(Image.fromarray(picture), at)
        color = _COLORS.get(outcome, _INK)
        pen.rectangle((left, top, left + side - 1, top + side - 1), outline=color, width=2)
        pen.text((left, top + side), shortened(name, font, side), _INK, font)
        pen.text((left, top + side + _LINE - 1), shortened(reason or outcome, font, side), color, font)
    return encode_png(np.asarray(sheet))
