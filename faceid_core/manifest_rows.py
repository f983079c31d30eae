"""The three shapes of a manifest (CSV, Parquet, folder of photos) as one stream of numbered rows of text."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

REQUIRED_COLUMNS = ("identity_id", "photo", "class_word")
BOXES = ("face_box", "subject_box")
OPTIONAL_COLUMNS = ("sha256", "consent_ref", "consent_until", *BOXES, "subject_mask")
COLUMNS = REQUIRED_COLUMNS + OPTIONAL_COLUMNS

# Suffixes that make a file of a folder a photo. Formats that cannot be decoded are among them on purpose:
# such a person is then rejected by name and not silently left out.
PHOTO_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".tif",
        ".tiff",
        ".bmp",
        ".gif",
        ".heic",
        ".heif",
        ".avif",
    )
)

# Line number (0: the manifest as a whole), and the cells by column or else what is wrong.
Row = tuple[int, Mapping[str, str] | str]


def shown(text: str) -> str:
    """A cell as messages show it: quoted, escaped and not too long."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")


def folder_rows(folder: Path, class_word: str) -> Iterator[Row]:
    """One row per photo of a folder, by name; hidden files, subfolders and other files are passed over."""
    found = sorted(
        each
        for each in folder.iterdir()
        if each.suffix.lower() in PHOTO_SUFFIXES and not each.name.startswith(".") and each.is_file()
    )
    for place, path in enumerate(found, start=1):
        yield place, {"identity_id": path.stem, "photo": path.name, "class_word": class_word}


def csv_rows(data: bytes) -> Iterator[Row]:
    """Rows of a CSV file: UTF-8 with or without a mark, any line ends, quoted cells; empty lines skipped."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        yield line, f"is not UTF-8 text (byte 0x{data[error.start]:02x}); save the file as CSV UTF-8"
        return
    # newline="" leaves line ends to the csv module, which knows those inside quotes.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] | None = None
    while True:
        # A row may span lines; it is known by the first of them.
        line = reader.line_num + 1
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
            columns = cells
            fault = _column_faults(columns)
            if fault:
                yield line, fault
                return
        elif len(cells) != len(columns):
            yield line, f"has {len(cells)} cells where the header has {len(columns)}; quote cells with commas"
        else:
            yield line, dict(zip(columns, cells, strict=True))
    if columns is None:
        yield 0, f"is empty; its first line must name the columns {', '.join(REQUIRED_COLUMNS)}"


def parquet_rows(data: bytes) -> Iterator[Row]:
    """Rows of a Parquet file; cells may be text, whole numbers, dates or (boxes) lists of numbers."""
    try:
        # Opened through a ParquetFile: pyarrow's dataset reader would add columns of its own.
        table = pq.ParquetFile(pa.BufferReader(data)).read()
    except (pa.ArrowException, OSError) as error:
        yield 0, f"cannot be read as Parquet: {error}"
        return
    fault = _column_faults(table.column_names)
    if fault:
        yield 0, fault
        return
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    for index in range(table.num_rows):
        try:
            yield index + 1, {name: _cell_text(name, values[index]) for name, values in columns.items()}
        except ValueError as error:
            yield index + 1, str(error)


def _column_faults(columns: list[str]) -> str | None:
    """Everything that is wrong with a header, in one sentence, or None."""
    if len(columns) == 1 and ";" in columns[0]:
        return "columns are separated by semicolons; save the file with commas"
    faults = []
    missing = [name for name in REQUIRED_COLUMNS if name not in columns]
    if missing:
        faults.append(f"missing column(s) {', '.join(missing)}")
    unknown = sorted({shown(name) for name in columns if name not in COLUMNS})
    if unknown:
        faults.append(f"unknown column(s) {', '.join(unknown)}")
    twice = sorted({name for name in columns if columns.count(name) > 1 and name in COLUMNS})
    if twice:
        faults.append(f"column(s) {', '.join(twice)} named twice")
    return f"header has {' and '.join(faults)}; allowed are {', '.join(COLUMNS)}" if faults else None


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
