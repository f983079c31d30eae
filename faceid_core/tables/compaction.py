"""Merges a table's small files, in a commit that lands on the very version that was read or not at all.

deltalake's `optimize.compact` would stream the same rows, but its commit ignores `max_commit_retries` and is tried again
on later versions, even on one whose own compaction replaced the same files: their rows are then there twice (deltalake
1.6.6; `tests/faults/test_races.py`). So the files are merged here and committed with `max_commit_retries=0`.
"""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable
from deltalake.transaction import AddAction, RemoveAction

if TYPE_CHECKING:
    import pyarrow.dataset as ds

ROW_GROUP = 131_072  # rows; DuckDB reads groups with several threads and leaves them out by their statistics
_BATCH = 16_384


def mergeable(sizes: Mapping[str, int], target_bytes: int, least_files: int) -> list[list[str]]:
    """Groups of two files or more that are smaller than a size and together about as large; none if there are too few.

    Args:
        sizes: file -> bytes.
        target_bytes: the size.
        least_files: how many smaller files there must be.
    """
    small = sorted((size, file) for file, size in sizes.items() if size < target_bytes)
    if len(small) < least_files:
        return []
    groups: list[list[str]] = [[]]
    filled = 0
    for size, file in small:
        if groups[-1] and filled + size > target_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(file)
        filled += size
    return [group for group in groups if len(group) > 1]


def merge(
    delta: DeltaTable,
    groups: Sequence[Sequence[str]],
    metadata: Mapping[str, str],
    put: Callable[[str, bytes], object],
) -> int:
    """Replace each group of files by one file with their rows; how many files were replaced.

    Args:
        delta: the version that is read; the commit is the next one, or fails.
        groups: of `mergeable`.
        metadata: of the commit.
        put: writes a file into the table's folder.

    Raises:
        CommitFailedError: another commit was quicker; the new files are then named by no version.
        DeltaError, OSError: the storage fails.
    """
    from pyarrow.dataset import FileSystemDataset  # loads pandas, half a second that few commands need

    dataset = delta.to_pyarrow_dataset()
    fragments = {fragment.path: fragment for fragment in dataset.get_fragments()}
    now = int(time.time() * 1000)
    actions: list[AddAction | RemoveAction] = []
    for group in groups:
        parts = [fragments[file] for file in group]
        path = f"part-00000-{uuid.uuid4()}-c000.zstd.parquet"
        data, rows = _merged(FileSystemDataset(parts, dataset.schema, dataset.format, dataset.filesystem))
        put(path, data)
        stats = json.dumps({"numRecords": rows})
        actions.append(AddAction(path, len(data), {}, now, data_change=False, stats=stats))
        actions += [RemoveAction(file, False, now) for file in group]
    exactly_next = CommitProperties(custom_metadata=dict(metadata), max_commit_retries=0)
    delta.create_write_transaction(actions, "append", delta.schema(), commit_properties=exactly_next)
    return sum(map(len, groups))


def _merged(rows: ds.Dataset) -> tuple[bytes, int]:
    """A dataset as one file, and how many rows it has; only the file is in memory whole."""
    count, stream = 0, io.BytesIO()
    with pq.ParquetWriter(stream, rows.schema, compression="zstd", compression_level=1) as writer:
        waiting: list[pa.RecordBatch] = []
        for batch in rows.to_batches(batch_size=_BATCH, use_threads=False):
            waiting.append(batch)
            count += batch.num_rows
            if sum(each.num_rows for each in waiting) >= ROW_GROUP:
                writer.write_table(pa.Table.from_batches(waiting), row_group_size=ROW_GROUP)
                waiting = []
        writer.write_table(pa.Table.from_batches(waiting, rows.schema), row_group_size=ROW_GROUP)
    return stream.getvalue(), count
