"""A shard: the pictures of one subject in one Parquet file that Hugging Face datasets and pandas read."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from faceid_core.photos import decode_png, encode_png

from .cells import Cell

FORMAT_VERSION = 1

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FIELDS = (
    ("prompt_id", pa.string(), {"dtype": "string", "_type": "Value"}),
    ("prompt", pa.string(), {"dtype": "string", "_type": "Value"}),
    ("category", pa.string(), {"dtype": "string", "_type": "Value"}),
    ("seed", pa.int64(), {"dtype": "int64", "_type": "Value"}),
    ("cell", pa.string(), {"dtype": "string", "_type": "Value"}),
    ("subject", pa.string(), {"dtype": "string", "_type": "Value"}),
    ("image", _IMAGE, {"_type": "Image"}),
    ("width", pa.int32(), {"dtype": "int32", "_type": "Value"}),
    ("height", pa.int32(), {"dtype": "int32", "_type": "Value"}),
    (
        "attention",
        pa.list_(pa.float16()),
        {"feature": {"dtype": "float16", "_type": "Value"}, "_type": "List"},
    ),
    ("attention_width", pa.int32(), {"dtype": "int32", "_type": "Value"}),
)


def shard_schema() -> pa.Schema:
    """The columns of a shard, with the metadata by which Hugging Face datasets recognize the image column."""
    features = {name: feature for name, _, feature in _FIELDS}
    metadata = {
        "huggingface": json.dumps({"info": {"features": features}}, sort_keys=True),
        "faceid.shard": str(FORMAT_VERSION),
    }
    return pa.schema([(name, kind) for name, kind, _ in _FIELDS], metadata=metadata)


@dataclass(frozen=True)
class ShardRow:
    """One picture of the grid.

    Args:
        prompt_id: id of its prompt.
        prompt: text of its prompt, with `V*`.
        category: category of its prompt.
        seed: picture seed.
        cell: its digest (see `cells`).
        subject: digest of the tokens, or the text that replaced `V*`.
        png: the picture as a PNG file.
        width, height: of the picture, in pixels.
        attention: the placeholder's attention over the picture, float16 [h, w], or None if none was recorded.
    """

    prompt_id: str
    prompt: str
    category: str
    seed: int
    cell: str
    subject: str
    png: bytes
    width: int
    height: int
    attention: np.ndarray | None = None

    @classmethod
    def of(cls, cell: Cell, image: np.ndarray, attention: np.ndarray | None = None) -> ShardRow:
        """The row of a cell that has been drawn, from its picture uint8 [h, w, 3]."""
        height, width = image.shape[:2]
        return cls(
            prompt_id=cell.prompt.id,
            prompt=cell.prompt.text,
            category=cell.prompt.category,
            seed=cell.seed,
            cell=cell.digest,
            subject=cell.subject,
            png=encode_png(image),
            width=width,
            height=height,
            attention=None if attention is None else np.asarray(attention, dtype=np.float16),
        )

    @property
    def image(self) -> np.ndarray:
        """The picture, uint8 [height, width, 3] RGB."""
        return decode_png(self.png)


def write_shard(rows: Sequence[ShardRow]) -> bytes:
    """Parquet bytes of rows; the same rows always give the same bytes.

    Raises:
        ValueError: if two rows have the same prompt and seed.
    """
    keys = [(row.prompt_id, row.seed) for row in rows]
    if len(set(keys)) != len(keys):
        twice = sorted(key for key in set(keys) if keys.count(key) > 1)
        raise ValueError(f"a shard holds one picture per prompt and seed; more than one for {twice}")
    columns = {
        "prompt_id": [row.prompt_id for row in rows],
        "prompt": [row.prompt for row in rows],
        "category": [row.category for row in rows],
        "seed": [row.seed for row in rows],
        "cell": [row.cell for row in rows],
        "subject": [row.subject for row in rows],
        "image": [{"bytes": row.png, "path": f"{row.prompt_id}-{row.seed}.png"} for row in rows],
        "width": [row.width for row in rows],
        "height": [row.height for row in rows],
        "attention": [None if row.attention is None else row.attention.ravel() for row in rows],
        "attention_width": [None if row.attention is None else row.attention.shape[1] for row in rows],
    }
    schema = shard_schema()
    table = pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names})
    sink = io.BytesIO()
    # PNG files do not shrink further; statistics over pictures would only repeat them in the footer.
    pq.write_table(
        table.cast(schema).replace_schema_metadata(schema.metadata),
        sink,
        compression={"attention.list.element": "zstd", "prompt": "zstd", "subject": "zstd"},
        use_dictionary=["prompt_id", "prompt", "category", "subject"],
        write_statistics=["prompt_id", "category", "seed", "cell"],
    )
    return sink.getvalue()


def read_shard(data: bytes) -> list[ShardRow]:
    """The rows of `write_shard`.

    Raises:
        ValueError: if the bytes are a shard of another format version or no shard at all.
    """
    table = pq.read_table(io.BytesIO(data))
    version = (table.schema.metadata or {}).get(b"faceid.shard", b"none").decode()
    if version != str(FORMAT_VERSION):
        raise ValueError(f"shard format {version} cannot be read; this code reads format {FORMAT_VERSION}")
    rows = []
    for record in table.to_pylist():
        attention, width = record.pop("attention"), record.pop("attention_width")
        if attention is not None:
            attention = np.asarray(attention, dtype=np.float16).reshape(-1, width)
        rows.append(ShardRow(png=record.pop("image")["bytes"], attention=attention, **record))
    return rows


def missing_cells(
    old_shards: Iterable[bytes], wanted: Sequence[Cell]
) -> tuple[dict[str, ShardRow], list[Cell]]:
    """Divide the wanted pictures into those that earlier shards hold and those left to draw.

    Args:
        old_shards: shards of the same subject, of any earlier grid.
        wanted: the pictures of the present grid.

    Returns:
        The rows that can be kept, by cell digest, with the id and category that their prompt has now; and the
        cells to draw, in the order wanted.
    """
    by_digest = {cell.digest: cell for cell in wanted}
    kept: dict[str, ShardRow] = {}
    for data in old_shards:
        for row in read_shard(data):
            cell = by_digest.get(row.cell)
            if cell is not None and row.cell not in kept:
                kept[row.cell] = replace(row, prompt_id=cell.prompt.id, category=cell.prompt.category)
    return kept, [cell for cell in wanted if cell.digest not in kept]


def assemble(kept: dict[str, ShardRow], drawn: Iterable[ShardRow], wanted: Sequence[Cell]) -> list[ShardRow]:
    """The rows of a whole grid in the order wanted, from kept and newly drawn pictures.

    Raises:
        ValueError: if a wanted picture is neither kept nor drawn.
    """
    rows = kept | {row.cell: row for row in drawn}
    absent = [f"{cell.prompt.id}/{cell.seed}" for cell in wanted if cell.digest not in rows]
    if absent:
        raise ValueError(f"{len(absent)} picture(s) of the grid were not drawn, the first is {absent[0]}")
    return [rows[cell.digest] for cell in wanted]
