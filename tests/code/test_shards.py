"""Shards: rows come back as they went in, others can read them, a changed grid keeps what it can."""

import io
import json

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from faceid_core.evaluate.cells import DrawSettings, grid_cells
from faceid_core.evaluate.grid import parse_grid
from faceid_core.evaluate.shards import (
    ShardRow,
    assemble,
    missing_cells,
    read_shard,
    shard_schema,
    write_shard,
)

SETTINGS = DrawSettings(base="b", sampler="DDIM", steps=9, guidance_scale=4.0, precision="float32", version=1)
TWO = "{name: x, prompts: [{id: a, text: a V*, category: scene}, {id: b, text: b V*, category: scene}]}"
THREE = (
    "{name: x, prompts: [{id: c, text: c V*, category: mixed}, {id: a-new, text: a V*, category: action},"
    "{id: b, text: b V*, category: scene}]}"
)


def _cells(text: str, seeds=(0, 1)):
    return grid_cells(parse_grid(text, source="test"), seeds, SETTINGS, subject="person")


def _rows(cells, attention=True):
    rng = np.random.default_rng(3)
    return [
        ShardRow.of(
            cell,
            rng.integers(0, 256, (12, 20, 3), dtype=np.uint8),
            rng.random((4, 6)).astype(np.float16) if attention else None,
        )
        for cell in cells
    ]


def test_rows_come_back_and_bytes_are_the_same_each_time():
    rows = _rows(_cells(TWO))
    rows[1] = ShardRow.of(_cells(TWO)[1], rows[1].image)
    data = write_shard(rows)
    assert write_shard(rows) == data
    back = read_shard(data)
    assert back[1].attention is None
    assert np.array_equal(back[0].attention, rows[0].attention) and back[0].attention.shape == (4, 6)
    assert np.array_equal(back[2].image, rows[2].image) and (back[2].height, back[2].width) == (12, 20)
    assert write_shard(back) == data
    assert read_shard(write_shard([])) == []


def test_pandas_and_duckdb_read_a_shard(tmp_path):
    rows = _rows(_cells(TWO))
    path = tmp_path / "shard.parquet"
    path.write_bytes(write_shard(rows))
    frame = pd.read_parquet(path)
    assert list(frame.prompt_id) == ["a", "a", "b", "b"]
    assert Image.open(io.BytesIO(frame.image[0]["bytes"])).size == (20, 12)
    query = f"select prompt_id, seed, octet_length(image.bytes) from '{path}' where seed = 1"
    found = duckdb.sql(query).fetchall()
    assert found == [("a", 1, len(rows[1].png)), ("b", 1, len(rows[3].png))]


def test_hugging_face_knows_the_image_column():
    schema = pq.read_schema(io.BytesIO(write_shard(_rows(_cells(TWO)))))
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert set(features) == set(schema.names) == set(shard_schema().names)


def test_a_changed_grid_draws_only_what_is_new():
    old = write_shard(_rows(_cells(TWO)))
    wanted = _cells(THREE, seeds=(0, 1, 2))
    kept, missing = missing_cells([old], wanted)
    # The prompt "a V*" has another id and category now; its pictures are still its pictures.
    assert sorted((row.prompt_id, row.category, row.seed) for row in kept.values()) == [
        ("a-new", "action", 0),
        ("a-new", "action", 1),
        ("b", "scene", 0),
        ("b", "scene", 1),
    ]
    assert [(cell.prompt.id, cell.seed) for cell in missing] == [
        ("c", 0), ("c", 1), ("c", 2), ("a-new", 2), ("b", 2),
    ]  # fmt: skip
    whole = assemble(kept, _rows(missing), wanted)
    assert [row.cell for row in whole] == [cell.digest for cell in wanted]
    assert missing_cells([write_shard(whole)], wanted)[1] == []


def test_a_picture_that_was_not_drawn_is_missed():
    cells = _cells(TWO)
    with pytest.raises(ValueError, match=r"1 picture\(s\) of the grid were not drawn, the first is b/1"):
        assemble({}, _rows(cells[:3]), cells)


def test_two_pictures_for_one_cell_are_refused():
    rows = _rows(_cells(TWO))
    with pytest.raises(ValueError, match=r"more than one for \[\('a', 0\)\]"):
        write_shard([rows[0], rows[0]])


def test_a_shard_of_another_format_is_refused():
    table = pq.read_table(io.BytesIO(write_shard(_rows(_cells(TWO)))))
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"faceid.shard": "2"}), sink)
    with pytest.raises(ValueError, match="shard format 2 cannot be read"):
        read_shard(sink.getvalue())
