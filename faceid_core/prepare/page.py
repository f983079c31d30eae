"""What trying photos came to: one table, one sheet, one page; as private as the photos."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceid_core.prepare.thumbnails import thumbnail_sheet
from faceid_core.private import owner_only, write_private
from faceid_core.report.rendering import render

if TYPE_CHECKING:
    from faceid_core.prepare.trial import Tried

COLUMNS: dict[str, type] = {
    "identity_id": str, "line": int, "outcome": str, "reason": str, "sentence": str, "value": float, "threshold": float,
    "face_pixels": float, "eye_distance_pixels": float, "sharpness": float, "cut_share": float, "brightness": float,
    "contrast": float, "clipped_share": float, "yaw_degrees": float, "confidence": float, "others": int,
    "photo_share": float, "mask_share": float, "mask_ok": bool, "seconds": float,
}  # fmt: skip
_BADGES = {"usable": "done", "rejected": "rejected", "failed": "failed"}


def write_prepared(folder: Path, tried: Sequence[Tried], about: Mapping[str, str]) -> None:
    """Write prepared.csv, prepared.parquet, sheet.png and index.html.

    Args:
        folder: that exists.
        tried: everybody, in the manifest's order.
        about: words about the trial by name, for the page.
    """
    rows = [_row(one) for one in tried]
    with open(folder / "prepared.csv", "w", newline="", encoding="utf-8", opener=owner_only) as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    _write_parquet(folder / "prepared.parquet", rows)
    cells = [(one.identity_id, one.outcome, one.reason, one.thumbnail) for one in tried]
    write_private(folder / "sheet.png", thumbnail_sheet(cells))
    write_private(folder / "index.html", rejections_page(rows, about))


def rejections_page(rows: Sequence[Mapping[str, Any]], about: Mapping[str, str]) -> bytes:
    """Every photo that cannot be used, with reason, value, limit and a sentence for whoever supplied it."""
    set_aside = [row for row in rows if row["outcome"] != "usable"]
    return render(
        "prepared.html",
        about=about,
        counts=Counter(row["outcome"] for row in rows),
        badges=_BADGES,
        reasons=Counter(row["reason"] for row in set_aside).most_common(),
        set_aside=set_aside,
    )


def _row(one: Tried) -> dict[str, Any]:
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
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    columns = {
        name: [None if row[name] is None else COLUMNS[name](row[name]) for row in rows] for name in COLUMNS
    }
    with open(path, "wb", opener=owner_only) as file:
        pq.write_table(pa.table(columns, schema=schema), file)
