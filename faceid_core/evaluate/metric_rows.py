"""Metric rows: one value per picture and metric, and their form as a blob."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import chain
from typing import overload

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
    """One value of one picture; a `value` of None means not measurable, and `detail` says why."""

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


class MetricRows(Sequence[MetricRow]):
    """Rows in columns, as a run holds them of each of its people: some thousand rows of 9 bytes, of 17 with details.

    Which picture and metric each row is of is one object for all people whose rows stand in the same order, and 12 bytes
    a row for the others; a detail is one object in the whole process.
    """

    __slots__ = ("_details", "_missing", "_places", "_values")

    def __init__(self, rows: Iterable[tuple[str, int, str, float | None, str]] = ()):
        """`rows` are the fields of `MetricRow`s, in their order."""
        columns = list(zip(*rows, strict=True)) or [()] * 5
        prompt_ids, seeds, metrics, values, details = columns
        self._places = _places_of(zip(prompt_ids, seeds, metrics, strict=True))
        self._values = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
        self._missing = np.array([value is None for value in values], dtype=bool)
        self._details = tuple(map(sys.intern, details)) if any(details) else ()

    @classmethod
    def of(cls, rows: Iterable[MetricRow]) -> MetricRows:
        """The same rows in columns; themselves where they are."""
        if isinstance(rows, MetricRows):
            return rows
        return cls((row.prompt_id, row.seed, row.metric, row.value, row.detail) for row in rows)

    @classmethod
    def joined(cls, parts: Sequence[MetricRows]) -> MetricRows:
        """The rows of all parts, one part after the other."""
        found, parts = cls(), [cls(), *parts]
        found._places = _places_of(chain.from_iterable(part._places.rows for part in parts))
        found._values = np.concatenate([part._values for part in parts])
        found._missing = np.concatenate([part._missing for part in parts])
        if any(part._details for part in parts):
            found._details = tuple(chain.from_iterable(part._details or [""] * len(part) for part in parts))
        return found

    def values(self, metric: str) -> dict[tuple[str, int], float]:
        """The measured values of one metric by (prompt id, seed)."""
        indices = self._places.indices((metric,))
        indices = indices[~self._missing[indices]]
        rows = self._places.rows
        return {
            rows[index][:2]: value
            for index, value in zip(indices.tolist(), self._values[indices].tolist(), strict=True)
        }

    def rows(self, *metrics: str) -> list[MetricRow]:
        """The rows of these metrics, in their order."""
        return [self._row(index) for index in self._places.indices(metrics).tolist()]

    def columns(self, *metrics: str) -> dict[str, list]:
        """The same as `rows`, as a list for each field of `MetricRow`: without an object for each row."""
        indices = self._places.indices(metrics)
        values: list[float | None] = self._values[indices].tolist()
        for place in self._missing[indices].nonzero()[0].tolist():
            values[place] = None
        details = [self._details[index] for index in indices.tolist()] if self._details else [""] * len(values)
        rows = [self._places.rows[index] for index in indices.tolist()]
        names = {name: [row[place] for row in rows] for place, name in enumerate(("prompt_id", "seed", "metric"))}
        return {**names, "value": values, "detail": details}

    @property
    def metrics(self) -> Collection[str]:
        """Each metric that has rows, once, in the order of the first row."""
        return self._places.of_metric.keys()

    @property
    def pictures(self) -> set[tuple[str, int]]:
        """(prompt id, seed) of every picture."""
        return {row[:2] for row in self._places.rows}

    def _row(self, index: int) -> MetricRow:
        value = None if self._missing[index] else float(self._values[index])
        return MetricRow(*self._places.rows[index], value, self._details[index] if self._details else "")

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> MetricRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[MetricRow]: ...
    def __getitem__(self, index: int | slice) -> MetricRow | list[MetricRow]:
        """A row, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self._row(each) for each in range(*index.indices(len(self)))]
        return self._row(range(len(self))[index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None


class _Places:
    """Which picture and metric each row is of: prompt id, seed and metric.

    Attributes:
        of_metric: the rows of each metric, int32, in the order of the first.
    """

    __slots__ = ("of_metric", "rows")

    def __init__(self, rows: tuple[tuple[str, int, str], ...]):
        self.rows = rows
        of_metric: dict[str, list[int]] = {}
        for index, (_, _, metric) in enumerate(rows):
            of_metric.setdefault(metric, []).append(index)
        self.of_metric = {metric: np.array(indices, np.int32) for metric, indices in of_metric.items()}

    def indices(self, metrics: Sequence[str]) -> np.ndarray:
        """The rows of these metrics, in their order, int32."""
        found = [self.of_metric[each] for each in metrics if each in self.of_metric]
        return np.sort(np.concatenate([np.empty(0, np.int32), *found]))


# Scorers that find a face in some pictures only give hardly two people rows in the same order, but of the same names.
_known_rows: dict[tuple[str, int, str], tuple[str, int, str]] = {}


def _places_of(rows: Iterable[tuple[str, int, str]]) -> _Places:
    return _places(tuple(_known_rows.setdefault(row, row) for row in rows))


@lru_cache(maxsize=256)
def _places(rows: tuple[tuple[str, int, str], ...]) -> _Places:
    return _Places(rows)


def read_scores(data: bytes) -> MetricRows:
    """Read the rows of `write_scores`."""
    # A run reads thousands of blobs; as a dataset each would take three times as long.
    table = pq.ParquetFile(pa.BufferReader(data), read_dictionary=_TEXTS).read(use_threads=False)
    if (table.schema.metadata or {}).get(b"faceid.scores") != b"1":
        raise ValueError("these bytes are not scores of format 1")
    columns = [_values(table.column(field.name)) for field in fields(MetricRow)]
    return MetricRows(zip(*columns, strict=True))


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
