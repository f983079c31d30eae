"""The two shapes of a manifest file (CSV, Parquet) as one stream of numbered rows of text."""

from __future__ import annotations

import csv
import datetime
import io
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .file_kinds import other_than_text

REQUIRED_COLUMNS = ("identity_id", "photo", "class_word")
BOXES = ("face_box", "subject_box")
OPTIONAL_COLUMNS = ("sha256", "consent_ref", "consent_until", *BOXES, "subject_mask")
COLUMNS = REQUIRED_COLUMNS + OPTIONAL_COLUMNS

# More than any list of people needs; what is read is kept in memory.
MOST_ROWS = 1_000_000
MOST_COLUMNS = 100
MOST_ROW_GROUPS = 10_000
MOST_UNPACKED_BYTES = 1024 * 1024 * 1024
MOST_CELLS = 32_000_000
_LONGEST_CELL = 128 * 1024  # the csv module's own limit
_LONGEST_BOX = 100
_NAMES_TOLD = 20

# What a header in one piece is separated by instead of commas.
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)
_WORD_BREAK = re.compile(r"[\s-]+")
# Columns in which pandas writes the index of a frame.
_INDEX = "index of pandas"
_UNNAMED = re.compile(r"unnamed:_[0-9]+")
_PANDAS_INDEX = re.compile(r"__index_level_[0-9]+__")

# Line number (0: the manifest as a whole), and the cells by column or else what is wrong.
Row = tuple[int, Mapping[str, str] | str]


def shown(text: str) -> str:
    """A cell as messages show it: quoted, escaped and not too long."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")


def csv_rows(data: bytes) -> Iterator[Row]:
    """Rows of a CSV file: UTF-8 with or without a mark, any line ends, quoted cells; empty lines skipped.

    Understood besides: a first line `sep=,` as Excel writes it, names of columns in any letters, blanks before a quoted
    cell, and the nameless first column in which pandas writes its index.
    """
    what = _no_csv(data)
    if what:
        yield 0, what
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        utf16 = " but UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        byte = f" (byte 0x{data[error.start]:02x})" if not utf16 else ""
        yield line, f"is not UTF-8 text{utf16}{byte}; save the file as CSV UTF-8"
        return
    excel = _SEPARATOR_LINE.match(text)
    text = text[excel.end() :] if excel else text
    # newline="" leaves line ends to the csv module, which knows those inside quotes.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    columns: list[str] | None = None
    rows = 0
    while True:
        # A row may span lines; it is known by the first of them.
        line = reader.line_num + 1 + bool(excel)
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            break
        except csv.Error as error:
            yield line, f"cannot be read as CSV ({error}); is a quotation mark left open?"
            return
        if not any(cells):
            continue
        if columns is None:
            columns, fault = _columns(cells)
            if fault:
                yield line, fault
                return
            continue
        rows += 1
        if rows > MOST_ROWS:
            yield line, f"is one row too many: at most {MOST_ROWS} are read; cut the file into several"
            return
        if len(cells) != len(columns):
            yield line, f"has {len(cells)} cells where the header has {len(columns)}; quote cells with commas"
        else:
            yield line, {name: cell for name, cell in zip(columns, cells, strict=True) if name != _INDEX}
    if columns is None:
        yield 0, f"is empty; its first line must name the columns {', '.join(REQUIRED_COLUMNS)}"


def parquet_rows(data: bytes) -> Iterator[Row]:
    """Rows of a Parquet file; cells may be text, whole numbers, dates or (boxes) lists of numbers.

    Sizes are looked at before anything is read: a small file can hold, compressed, more than memory does.
    """
    try:
        # Opened through a ParquetFile: pyarrow's dataset reader would add columns of its own.
        file = pq.ParquetFile(pa.BufferReader(data))
        schema = file.schema_arrow
        columns, fault = _columns(schema.names)
        fault = fault or _type_faults(columns, schema) or _parquet_faults(file.metadata, data)
        if fault:
            yield 0, fault
            return
        # Kept as dictionaries, a text that every row repeats is there once.
        texts = [field.name for field in schema if _is_text(field.type)]
        table = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts).read()
        cells = {name: _values(table.column(place)) for place, name in enumerate(columns) if name != _INDEX}
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        # Damaged text and impossible dates show only when the cells become Python's.
        yield 0, f"cannot be read as Parquet: {str(error)[:500]}"
        return
    for index in range(table.num_rows):
        try:
            yield index + 1, {name: _cell_text(name, values[index]) for name, values in cells.items()}
        except ValueError as error:
            yield index + 1, str(error)


def _no_csv(data: bytes) -> str | None:
    """What a file is that was given as a manifest and is none, as the rest of a sentence; None if it may be one."""
    kind = other_than_text(data)
    if kind:
        advice = "save its sheet as CSV UTF-8" if "Excel" in kind else "unpack it"
        if "picture" in kind:
            advice = "name identities.csv, identities.parquet, or a folder of photos"
        elif "archive" not in kind and "Excel" not in kind:
            advice = "save it as CSV UTF-8 or Parquet"
        return f"is {kind}, not a manifest; {advice}"
    start = data[:200].removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start in (b"{", b"[", b"<"):
        what = "a web page or XML" if start == b"<" else "JSON"
        return f"is {what}, not a manifest; save it as CSV UTF-8 or Parquet"
    return None


def _columns(found: list[str]) -> tuple[list[str], str | None]:
    """The names of a header as a manifest has them, `_INDEX` for an index of pandas; and everything wrong with it."""
    if len(found) > MOST_COLUMNS:
        return (
            [],
            f"header names {len(found)} columns, at most {MOST_COLUMNS} are read; allowed are {', '.join(COLUMNS)}",
        )
    if len(found) == 1:
        for mark, name in _SEPARATORS.items():
            if mark in found[0]:
                return [], f"columns are separated by {name}; save the file with commas"
    columns = [_WORD_BREAK.sub("_", name.strip().casefold()) for name in found]
    for place, name in enumerate(columns):
        is_first = place == 0 and (not name or _UNNAMED.fullmatch(name))
        if is_first or _PANDAS_INDEX.fullmatch(name):
            columns[place] = _INDEX
    return columns, _column_faults([name for name in columns if name != _INDEX])


def _column_faults(columns: list[str]) -> str | None:
    """Everything that is wrong with a header, in one sentence, or None."""
    faults = []
    missing = [name for name in REQUIRED_COLUMNS if name not in columns]
    if missing:
        faults.append(f"missing column(s) {', '.join(missing)}")
    unknown = sorted({shown(name) for name in columns if name not in COLUMNS})
    if unknown:
        more = f" and {len(unknown) - _NAMES_TOLD} more" if len(unknown) > _NAMES_TOLD else ""
        faults.append(f"unknown column(s) {', '.join(unknown[:_NAMES_TOLD])}{more}")
    counted = Counter(columns)
    twice = sorted(name for name, count in counted.items() if count > 1 and name in COLUMNS)
    if twice:
        faults.append(f"column(s) {', '.join(twice)} named twice")
    return f"header has {' and '.join(faults)}; allowed are {', '.join(COLUMNS)}" if faults else None


def _parquet_faults(about: pq.FileMetaData, data: bytes) -> str | None:
    """What a Parquet file says of its size, where that is too large."""
    if about.num_rows > MOST_ROWS:
        return f"has {about.num_rows} rows, at most {MOST_ROWS} are read; cut the file into several"
    if about.num_row_groups > MOST_ROW_GROUPS:
        return f"has {about.num_row_groups} row groups, at most {MOST_ROW_GROUPS} are read; write it with larger ones"
    size, cells = _unpacked(data)
    if size > MOST_UNPACKED_BYTES or cells > MOST_CELLS:
        return f"holds {size / 2**20:.0f} MiB and {cells} values unpacked, more than any list of people; cut the file"
    return None


def _unpacked(data: bytes) -> tuple[int, int]:
    """Bytes and values of a Parquet file's column chunks, as its footer has them.

    DuckDB reads the footer: pyarrow's `RowGroupMetaData.column` ends the process where a chunk's entry is damaged.

    Raises:
        ValueError: the footer is damaged.
    """
    import duckdb  # most manifests are no Parquet files

    asked = "SELECT coalesce(sum(abs({})), 0) FROM parquet_metadata(?)"
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as connection:
        path = Path(folder) / "manifest.parquet"
        path.write_bytes(data)
        try:
            size, cells = (
                int(connection.execute(asked.format(column), [str(path)]).fetchall()[0][0])
                for column in ("total_uncompressed_size", "num_values")
            )
        except duckdb.Error as error:
            raise ValueError(str(error)) from None
    return size, cells


def _type_faults(columns: list[str], schema: pa.Schema) -> str | None:
    """Columns of nested values, which may hold any number for one row."""
    for name, field in zip(columns, schema, strict=True):
        inner = field.type.value_type if _is_list(field.type) and name in BOXES else field.type
        if pa.types.is_nested(inner) and name != _INDEX:
            return f"{name} is of type {str(field.type)[:60]}; give text"
    return None


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)


def _values(column: pa.ChunkedArray) -> list[Any]:
    """A column as Python's values; texts that are one and the same stay one.

    Raises:
        ValueError: a text is longer than any cell of a manifest.
    """
    if _is_list(column.type) and (pc.max(pc.list_value_length(column)).as_py() or 0) > _LONGEST_BOX:
        raise ValueError(f"a box of more than {_LONGEST_BOX} numbers; it has four")
    if not pa.types.is_dictionary(column.type):
        return column.to_pylist()
    values: list[Any] = []
    for chunk in column.chunks:
        kind = chunk.dictionary.type
        longest = pc.max(pc.binary_length(chunk.dictionary)).as_py() if _is_text(kind) else None
        if longest and longest > _LONGEST_CELL:
            raise ValueError(f"a cell of {longest} bytes, at most {_LONGEST_CELL} are read")
        known = chunk.dictionary.to_pylist()
        values += [None if place is None else known[place] for place in chunk.indices.to_pylist()]
    return values


def _cell_text(column: str, value: Any) -> str:
    """A Parquet cell as the text that a CSV file would have there."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, datetime.datetime):
        if value.time() != datetime.time():
            raise ValueError(f"{column} is a moment ({value.isoformat()}); give a date")
        return value.date().isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if column in BOXES and isinstance(value, list):
        return ",".join(str(part) for part in value)
    raise ValueError(f"{column} is of type {type(value).__name__}; give text")
