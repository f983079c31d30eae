"""The rows of a query as text or bytes, straight from Arrow: integers, dates and nulls as they are."""

from __future__ import annotations

import datetime as dt
import io
import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faceid_core.spreadsheet import for_spreadsheets

_BATCH = 10_000


def rows_as(kind: str, rows: pa.Table) -> bytes:
    """The rows in a format of `faceid query`.

    - table: aligned text; a null is NULL.
    - csv: a null is empty and an empty text is quoted; a text that a spreadsheet takes for a formula gets an
      apostrophe in front, numbers are not changed.
    - json: a list of objects; a null, and a number that JSON cannot hold, is null. Of columns with one name all but the
      first get a number.
    - parquet: the rows as they are.
    """
    if kind == "parquet":
        sink = io.BytesIO()
        pq.write_table(rows, sink, compression="zstd")
        return sink.getvalue()
    text = {"csv": _csv, "json": _json, "table": _table}[kind](rows)
    return text.encode()


def _records(rows: pa.Table) -> Iterator[list[Any]]:
    for batch in rows.to_batches(_BATCH):
        yield from map(list, zip(*map(_values, batch.columns), strict=True))


def _values(column: pa.Array) -> list[Any]:
    try:
        return column.to_pylist()
    except (OverflowError, ValueError):  # a date beyond the year 9999, or infinity
        return column.cast(pa.string()).to_pylist()


def _csv(rows: pa.Table) -> str:
    lines = [",".join(_cell(name) for name in rows.column_names)]
    # An empty line would be skipped by what reads it.
    lines += [",".join(map(_cell, record)) or '""' for record in _records(rows)]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return _quoted(_plain(value)) if isinstance(value, list | dict | tuple) else _plain(value)
    return _quoted(for_spreadsheets(value))


def _quoted(text: str) -> str:
    if text and not any(sign in text for sign in ',"\n\r') and text == text.strip():
        return text
    return '"' + text.replace('"', '""') + '"'


def _json(rows: pa.Table) -> str:
    names = _told_apart(rows.column_names)
    found = [
        json.dumps(dict(zip(names, map(_as_json, record), strict=True)), ensure_ascii=False)
        for record in _records(rows)
    ]
    return "[\n" + ",\n".join(f"  {each}" for each in found) + "\n]\n" if found else "[]\n"


def _told_apart(names: list[str]) -> list[str]:
    """Names of an object's members: of equal ones all but the first get a number, as DuckDB itself numbers them."""
    found: list[str] = []
    for name in names:
        number, made = 1, name
        while made in found:
            made, number = f"{name}_{number}", number + 1
        found.append(made)
    return found


def _as_json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Decimal):  # a sum of whole numbers is one
        return int(value) if value == value.to_integral_value() and value.as_tuple().exponent == 0 else float(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {name: _as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    return _plain(value)


def _table(rows: pa.Table) -> str:
    cells = [list(rows.column_names)]
    cells += [["NULL" if value is None else _plain(value) for value in record] for record in _records(rows)]
    if not rows.column_names:
        return ""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    kinds = rows.schema.types
    to_the_right = [pa.types.is_integer(k) or pa.types.is_floating(k) or pa.types.is_decimal(k) for k in kinds]
    return "".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, to_the_right, strict=True)
        ).rstrip()
        + "\n"
        for line in cells
    )


def _plain(value: Any) -> str:
    """A value as text: ISO 8601 for dates and times, JSON for lists and structures."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, list | dict | tuple):
        return json.dumps(_as_json(value), ensure_ascii=False)
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
