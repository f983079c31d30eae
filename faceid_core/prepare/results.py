"""Writes the results of checking photos: a table, a sheet of thumbnails, a page; as private as the photos."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from faceid_core.photos import encode_png
from faceid_core.prepare.check import CheckedPhoto
from faceid_core.private import owner_only, write_private
from faceid_core.report.contact_sheet import shortened
from faceid_core.report.rendering import render

COLUMNS: dict[str, type] = {
    "identity_id": str, "line": int, "outcome": str, "reason": str, "sentence": str, "value": float, "threshold": float,
    "face_pixels": float, "eye_distance_pixels": float, "sharpness": float, "cut_share": float, "brightness": float,
    "contrast": float, "clipped_share": float, "yaw_degrees": float, "confidence": float, "others": int,
    "photo_share": float, "mask_share": float, "mask_ok": bool, "eye_brightness": float, "mouth_contrast": float,
    "flat_share": float, "side_margin": float, "warnings": str, "seconds": float,
}  # fmt: skip
_INK, _PAPER, _EMPTY = (28, 28, 26), (255, 255, 255), (238, 238, 234)
_COLORS = {"usable": (26, 127, 55), "rejected": (176, 96, 0), "failed": (190, 30, 45)}
_GAP, _LINE = 6, 13
_BADGES = {"usable": "done", "rejected": "rejected", "failed": "failed"}


def write_results(folder: Path, checked: Sequence[CheckedPhoto], about: Mapping[str, str]) -> None:
    """Write prepared.csv, prepared.parquet, sheet.png and index.html.

    Args:
        folder: that exists.
        checked: one for each identity, in the manifest's order.
        about: settings by name, in words for the page.
    """
    rows = [_row(one) for one in checked]
    with open(folder / "prepared.csv", "w", newline="", encoding="utf-8", opener=owner_only) as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    _write_parquet(folder / "prepared.parquet", rows)
    cells = [(one.identity_id, one.outcome, one.reason, one.thumbnail) for one in checked]
    write_private(folder / "sheet.png", thumbnail_sheet(cells))
    write_private(folder / "index.html", rejections_page(rows, about))


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


def rejections_page(rows: Sequence[Mapping[str, Any]], about: Mapping[str, str]) -> bytes:
    """Every photo that cannot be used, with reason, value, limit and a sentence for its supplier."""
    set_aside = [row for row in rows if row["outcome"] != "usable"]
    return render(
        "prepared.html",
        about=about,
        counts=Counter(row["outcome"] for row in rows),
        badges=_BADGES,
        reasons=Counter(row["reason"] for row in set_aside).most_common(),
        set_aside=set_aside,
    )


def _row(one: CheckedPhoto) -> dict[str, Any]:
    given = {
        "identity_id": one.identity_id,
        "line": one.line,
        "outcome": one.outcome,
        "reason": one.reason,
        "sentence": one.sentence,
        "value": one.value,
        "threshold": one.threshold,
        "seconds": one.seconds,
        **one.figures,
    }
    return {name: given.get(name) for name in COLUMNS}


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    types: dict[type, pa.DataType] = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    columns = {
        name: [None if row[name] is None else COLUMNS[name](row[name]) for row in rows] for name in COLUMNS
    }
    with open(path, "wb", opener=owner_only) as file:
        pq.write_table(pa.table(columns, schema=schema), file)
