"""Contact sheets: rows of pictures with their captions, as one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from faceid_core.photos import encode_png
from faceid_core.report.synthetic_mark import SyntheticMark, marked_png

_INK, _MUTED, _PAPER, _EMPTY = (28, 28, 26), (110, 110, 104), (255, 255, 255), (238, 238, 234)
_MISS = (190, 30, 30)
_LINE = 26  # pixels of a line of words


@dataclass(frozen=True)
class Cell:
    """A picture with words in its lower corner and, if it is marked, a red frame.

    Args:
        image: uint8 [h, w, 3] of any size.
        words: A few; empty for none.
        is_marked: As a miss.
    """

    image: np.ndarray
    words: str = ""
    is_marked: bool = False


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[np.ndarray | Cell | None]]],
    columns: Sequence[str] = (),
    *,
    title: str = "",
    cell_pixels: int = 128,
    label_pixels: int = 190,
    mark: SyntheticMark | None = None,
) -> bytes:
    """Pictures in rows, each row with its caption on the left.

    Args:
        rows: (caption, pictures) for each row; pictures uint8 [h, w, 3] of any size, None for an empty cell.
        columns: Captions above the columns; none if empty.
        title: Above everything; none if empty.
        cell_pixels: Side of the square that a picture is fitted into.
        label_pixels: Width of the row captions; 0 leaves them out.
        mark: What the file says of itself, where a model made its pictures.

    Returns:
        A PNG file; the same pictures always give the same bytes.

    Raises:
        ValueError: there is no cell.
    """
    wide = max((len(pictures) for _, pictures in rows), default=0)
    if not wide:
        raise ValueError("a contact sheet needs at least one picture")
    gap, above = max(4, cell_pixels // 24), _LINE if title else 0
    head = above + (_LINE if columns else 0)
    width = label_pixels + wide * (cell_pixels + gap) + gap
    height = head + len(rows) * (cell_pixels + gap) + gap
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    if title:
        pen.text((gap * 2, _LINE / 2 + 3), shortened(title, font, width - 4 * gap), _INK, font, anchor="lm")
    for column, words in enumerate(columns):
        center = label_pixels + gap + column * (cell_pixels + gap) + cell_pixels / 2
        pen.text((center, above + _LINE / 2 + 3), shortened(words, font, cell_pixels), _MUTED, font, anchor="mm")
    for row, (words, pictures) in enumerate(rows):
        top = head + gap + row * (cell_pixels + gap)
        if label_pixels:
            lines = _wrapped(words, font, label_pixels - 2 * gap)[: max(1, cell_pixels // 18)]
            pen.multiline_text(
                (gap * 2, top + cell_pixels / 2), "\n".join(lines), _INK, font, anchor="lm", spacing=4
            )
        for column in range(wide):
            left = label_pixels + gap + column * (cell_pixels + gap)
            picture = pictures[column] if column < len(pictures) else None
            if picture is None:
                pen.rectangle((left, top, left + cell_pixels - 1, top + cell_pixels - 1), _EMPTY)
            else:
                cell = picture if isinstance(picture, Cell) else Cell(picture)
                _put(sheet, pen, cell, (left, top), cell_pixels, font)
    pixels = np.asarray(sheet)
    return marked_png(pixels, mark) if mark else encode_png(pixels)


def _put(sheet: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, corner: tuple[int, int], side: int, font) -> None:
    """Draw a cell into the square at its upper left corner."""
    left, top = corner
    shown = Image.fromarray(fitted(cell.image, side))
    sheet.paste(shown, (left + (side - shown.width) // 2, top + (side - shown.height) // 2))
    if cell.words:
        width = font.getlength(cell.words)
        pen.rectangle((left, top + side - 19, left + width + 8, top + side - 1), _PAPER)
        pen.text((left + 4, top + side - 9), cell.words, _MISS if cell.is_marked else _INK, font, anchor="lm")
    if cell.is_marked:
        pen.rectangle((left, top, left + side - 1, top + side - 1), outline=_MISS, width=3)


def fitted(image: np.ndarray, side: int) -> np.ndarray:
    """A picture uint8 [h, w, 3], scaled to fit a square of a side in pixels."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _wrapped(words: str, font, width: float) -> list[str]:
    """Words broken into lines that fit."""
    lines: list[str] = []
    for word in words.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(shortened(word, font, width))
    return lines or [""]


def shortened(words: str, font, width: float) -> str:
    """The words, cut off with an ellipsis where they are wider than so many pixels."""
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(words + "…") > width:
        words = words[:-1]
    return words + "…"
