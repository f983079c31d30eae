"""Writes the results of checking photos: a table, a sheet of thumbnails, a page; as private as the photos."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from faceid_core.identity import Identity
from faceid_core.photo_folder import LeftOut, printable
from faceid_core.photos import encode_png
from faceid_core.prepare.check import CheckedPhoto
from faceid_core.prepare.differences import Difference
from faceid_core.private import owner_only, replaced, write_private
from faceid_core.report.contact_sheet import shortened
from faceid_core.report.rendering import render
from faceid_core.spreadsheet import for_spreadsheets

COLUMNS: dict[str, type] = {
    "identity_id": str, "file": str, "line": int, "outcome": str, "reason": str, "sentence": str, "value": float,
    "threshold": float, "face_pixels": float, "eye_distance_pixels": float, "sharpness": float, "cut_share": float,
    "brightness": float, "contrast": float, "clipped_share": float, "yaw_degrees": float, "confidence": float,
    "others": int, "photo_share": float, "mask_share": float, "mask_ok": bool, "eye_lightness": float, "eyes_seen": int,
    "eye_brightness": float, "mouth_contrast": float, "flat_share": float, "side_margin": float, "detail_share": float,
    "warnings": str, "photo_digest": str, "seconds": float,
}  # fmt: skip
TABLE = "prepared.csv"
# The outcome of an entry of a folder that is no person's photo.
LEFT_OUT = "left_out"
MOST_EXAMPLES = 3
_INK, _PAPER, _EMPTY = (28, 28, 26), (255, 255, 255), (238, 238, 234)
_COLORS = {"usable": (26, 127, 55), "rejected": (176, 96, 0), "failed": (190, 30, 45)}
_GAP, _LINE = 6, 13
MOST_CELLS = 2_000  # of a sheet: some 80 MB while it is drawn
# Name, outcome, reason, and the picture uint8 [h, w, 3] or None.
Cell = tuple[str, str, str, np.ndarray | None]
_BADGES = {"usable": "done", "rejected": "rejected", "failed": "failed", LEFT_OUT: "refused"}


@dataclass(frozen=True)
class ReasonSummary:
    """The photos of one outcome and reason.

    Args:
        photos: their number.
        examples: names of up to `MOST_EXAMPLES` files.
        sentence: what is said of the first one.
    """

    outcome: str
    reason: str
    photos: int
    examples: tuple[str, ...]
    sentence: str


class GrowingTable:
    """prepared.csv while photos are checked: a row is in it as soon as its photo is done.

    Args:
        folder: that exists.
        files: by identity id, the name of the photo's file.
        lines: by identity id, its line in the manifest; None in a folder of photos.
    """

    def __init__(self, folder: Path, files: Mapping[str, str], lines: Mapping[str, int | None]):
        self._files, self._lines = files, lines
        path = folder / TABLE
        self._stream = open(path, "w", newline="", encoding="utf-8", opener=owner_only)  # noqa: SIM115 until `close`
        self._writer = csv.DictWriter(self._stream, COLUMNS)
        self._writer.writeheader()
        self._stream.flush()

    def add(self, one: CheckedPhoto) -> None:
        """Write the row of a photo."""
        self._writer.writerow(_for_spreadsheets(_row(one, self._files, self._lines)))
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def file_names(people: Sequence[Identity], base: Path) -> dict[str, str]:
    """By identity id, the name of the photo's file: below the manifest's folder, or its address."""
    start = f"{base.absolute()}/"
    return {each.identity_id: printable(each.photo.removeprefix(start)) for each in people}


def write_results(
    folder: Path,
    checked: Sequence[CheckedPhoto],
    about: Mapping[str, str],
    *,
    files: Mapping[str, str],
    lines: Mapping[str, int | None],
    left_out: Sequence[LeftOut] = (),
    thumbnail: Callable[[str], np.ndarray | None],
    differences: Sequence[Difference] = (),
) -> None:
    """Write prepared.csv, prepared.parquet, sheet.png and index.html.

    Args:
        folder: that exists.
        checked: one for each identity that was checked, in the manifest's order.
        about: settings by name, in words for the page.
        files: by identity id, the name of the photo's file.
        lines: by identity id, its line in the manifest; None in a folder of photos.
        left_out: what a folder of photos holds besides.
        thumbnail: the picture of an identity id, or None.
        differences: from other settings, for the page.
    """
    rows = [_row(one, files, lines) for one in checked] + [_left_out_row(each) for each in left_out]
    # What was written while photos were checked stays until the whole table is there.
    with replaced(folder / TABLE) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(map(_for_spreadsheets, rows))
    _write_parquet(folder / "prepared.parquet", rows)
    shown = set()

    def cells() -> Iterator[Cell]:
        """One picture after the other: all of many people do not fit into memory."""
        for one in sorted(checked, key=lambda one: len(checked) > MOST_CELLS and one.outcome == "usable"):
            picture = thumbnail(one.identity_id)
            if picture is not None:
                shown.add(one.identity_id)
            yield one.identity_id, one.outcome, one.reason, picture

    write_private(folder / "sheet.png", thumbnail_sheet(cells(), len(checked)))
    write_private(folder / "index.html", results_page(rows, about, shown=shown, differences=differences))


def summarize_reasons(
    checked: Sequence[CheckedPhoto], left_out: Sequence[LeftOut], files: Mapping[str, str]
) -> list[ReasonSummary]:
    """How many photos are of which outcome and reason, with examples: usable ones first, then the most frequent."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for one in checked:
        name = files.get(one.identity_id, one.identity_id)
        groups.setdefault((one.outcome, one.reason), []).append((name, one.sentence))
    for each in left_out:
        groups.setdefault((LEFT_OUT, each.reason), []).append((printable(each.name), each.sentence))
    order = sorted(groups, key=lambda key: (key[0] != "usable", key[0] == LEFT_OUT, -len(groups[key]), key))
    return [
        ReasonSummary(
            outcome,
            reason,
            len(groups[outcome, reason]),
            tuple(name for name, _ in groups[outcome, reason][:MOST_EXAMPLES]),
            groups[outcome, reason][0][1],
        )
        for outcome, reason in order
    ]


def thumbnail_sheet(cells: Iterable[Cell], count: int, *, side: int = 96, columns: int = 0) -> bytes:
    """A PNG of thumbnails in reading order: of more than `MOST_CELLS` the first ones, and how many there are besides.

    Args:
        cells: all of them; each is read once, also where it is not shown.
        count: how many.
        side: of a cell in pixels.
        columns: of the sheet; 0 makes it about 4:3.
    """
    most = count if count <= MOST_CELLS else MOST_CELLS - 1
    columns = columns or max(4, math.ceil(math.sqrt(min(count, MOST_CELLS) * 4 / 3)))
    rows = max(1, math.ceil(min(count, MOST_CELLS) / columns))
    wide, high = side + _GAP, side + 2 * _LINE + _GAP
    sheet = Image.new("RGB", (columns * wide + _GAP, rows * high + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    for place, (name, outcome, reason, picture) in enumerate(cells):
        left, top = _GAP + place % columns * wide, _GAP + place // columns * high
        if place == most:
            pen.text((left, top), f"and {count - most:,} more,\nin index.html", _INK, font)
        if place >= most:
            continue
        if picture is None:
            pen.rectangle((left, top, left + side - 1, top + side - 1), _EMPTY)
        else:
            picture = _fitted(picture, side)
            at = left + (side - picture.shape[1]) // 2, top + (side - picture.shape[0]) // 2
            sheet.paste(Image.fromarray(picture), at)
        color = _COLORS.get(outcome, _INK)
        pen.rectangle((left, top, left + side - 1, top + side - 1), outline=color, width=2)
        pen.text((left, top + side), shortened(name, font, side), _INK, font)
        pen.text((left, top + side + _LINE - 1), shortened(reason or outcome, font, side), color, font)
    return encode_png(np.asarray(sheet))


def _fitted(picture: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def results_page(
    rows: Sequence[Mapping[str, Any]],
    about: Mapping[str, str],
    *,
    shown: set[str] | frozenset[str] = frozenset(),
    differences: Sequence[Difference] = (),
) -> bytes:
    """Every photo that cannot be used beside its reason and sentence; warnings; what is left out.

    Args:
        rows: of the table.
        about: settings by name.
        shown: identity ids that have a thumbnail.
        differences: from other settings.
    """
    set_aside = [row for row in rows if row["outcome"] in ("rejected", "failed")]
    by_reason: dict[str, list[Mapping[str, Any]]] = {}
    for row in set_aside:
        by_reason.setdefault(row["reason"], []).append(row)
    return render(
        "prepared.html",
        about=about,
        counts=Counter(row["outcome"] for row in rows),
        badges=_BADGES,
        groups=sorted(by_reason.items(), key=lambda group: -len(group[1])),
        warned=[row for row in rows if row["outcome"] == "usable" and row["warnings"]],
        left_out=[row for row in rows if row["outcome"] == LEFT_OUT],
        shown=shown,
        differences=differences,
    )


def _row(one: CheckedPhoto, files: Mapping[str, str], lines: Mapping[str, int | None]) -> dict[str, Any]:
    given = {
        "identity_id": one.identity_id,
        "file": files.get(one.identity_id),
        "line": lines.get(one.identity_id),
        "outcome": one.outcome,
        "reason": one.reason,
        "sentence": one.sentence,
        "value": one.value,
        "threshold": one.threshold,
        "photo_digest": one.photo_digest or None,
        "seconds": one.seconds,
        **one.figures,
    }
    return {name: given.get(name) for name in COLUMNS}


def _for_spreadsheets(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the CSV file has it: names of files are the user's text."""
    return {name: for_spreadsheets(value) for name, value in row.items()}


def _left_out_row(each: LeftOut) -> dict[str, Any]:
    given = {
        "file": printable(each.name),
        "outcome": LEFT_OUT,
        "reason": each.reason,
        "sentence": each.sentence,
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
