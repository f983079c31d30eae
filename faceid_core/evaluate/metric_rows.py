"""Metric rows: one value per picture and metric, and their form as a blob."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .grid import Prompt
from .null_reasons import NoValue
from .shards import ShardRow

_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("seed", pa.int64()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("detail", pa.string()),
    ],
    metadata={"faceid.scores": "1"},
)
_TEXTS = [field.name for field in _SCHEMA if field.type == pa.string()]


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One value of one picture; a `value` of None means not measurable, and `detail` says why.

    A run holds some thousand for each person, hence the slots.
    """

    prompt_id: str
    seed: int
    metric: str
    value: float | None
    detail: str = ""


@dataclass(frozen=True)
class Context:
    """A metric's inputs besides the pictures: the reference photo, the class word, the prompts by id.

    `others` are other pictures of the person on the photo, each uint8 [h, w, 3]; empty where there are none.
    """

    reference: np.ndarray | None
    class_word: str
    prompts: Mapping[str, Prompt]
    others: Sequence[np.ndarray] = ()


def row_of(row: ShardRow, metric: str, value: float | None, detail: str | NoValue = "") -> MetricRow:
    """A row of one picture, its value rounded to 6 decimals.

    Raises:
        TypeError: there is no value and no reason for it, or both.
    """
    if isinstance(detail, NoValue) != (value is None):
        raise TypeError(f"metric {metric!r} has value {value!r} and reason {detail!r}; give one of both")
    # The last bits of a matrix product must not make two equal scores differ.
    rounded = None if value is None else round(value, 6)
    text = detail.text if isinstance(detail, NoValue) else detail
    return MetricRow(row.prompt_id, row.seed, metric, rounded, text)


def write_scores(rows: Sequence[MetricRow]) -> bytes:
    """Parquet bytes of metric rows; the same rows always give the same bytes."""
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in _SCHEMA}
    table = pa.Table.from_pydict(columns, schema=_SCHEMA)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_scores(data: bytes) -> list[MetricRow]:
    """Read the rows of `write_scores`."""
    # A run reads thousands of blobs; as a dataset each would take three times as long.
    table = pq.ParquetFile(pa.BufferReader(data), read_dictionary=_TEXTS).read(use_threads=False)
    if (table.schema.metadata or {}).get(b"faceid.scores") != b"1":
        raise ValueError("these bytes are not scores of format 1")
    columns = [_values(table.column(field.name)) for field in fields(MetricRow)]
    return [MetricRow(*values) for values in zip(*columns, strict=True)]


def _values(column: pa.ChunkedArray) -> list:
    """A column as Python's values; a text is one object in the whole process, however many people have it."""
    values: list = []
    for chunk in column.chunks:
        if isinstance(chunk, pa.DictionaryArray):
            known = [sys.intern(text) for text in chunk.dictionary.to_pylist()]
            values += [None if place is None else known[place] for place in chunk.indices.to_pylist()]
        else:
            values += chunk.to_pylist()
    return values
