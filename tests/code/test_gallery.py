"""The gallery's strips: each picture whole, in a square of its own."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from faceid_core.report.gallery_page import SIDE, strip
from faceid_core.report.synthetic_mark import SyntheticMark


def test_a_wide_picture_is_shown_whole_and_unstretched_in_its_square():
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[16:48, 48:80] = 255  # a square in the middle
    made = Image.open(io.BytesIO(strip([np.zeros((64, 64, 3), np.uint8), wide], SyntheticMark("ab" * 32))))
    pixels = np.asarray(made.convert("L")).astype(int)
    assert pixels.shape == (SIDE, 2 * SIDE)
    tile = pixels[:, SIDE:]
    dark_rows = np.flatnonzero(tile[:, 2] < 128)
    assert (dark_rows.min(), dark_rows.max()) == (SIDE // 4, SIDE * 3 // 4 - 1), "half as high as wide, white around"
    row, column = tile[SIDE // 2], tile[SIDE // 4 : SIDE * 3 // 4, SIDE // 2]
    assert abs(int((row > 128).sum()) - int((column > 128).sum())) <= 2, "the square is still one"
