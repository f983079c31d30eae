"""Files of the tables as DuckDB's threads read them: each where it is, and whole or not at all."""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from deltalake.fs import DeltaStorageHandler

from faceid_core.tables import Tables
from faceid_core.tables.compaction import ROW_GROUP
from faceid_core.tables.files import SharedFile, TableFiles, TableFileSystem
from faceid_core.tables.storage import storage_options
from tests.benchmarks.table_nights import night, run_name

SCHEMA = pa.schema([("n", pa.int64())])


@pytest.fixture
def files(tmp_path) -> TableFileSystem:
    data = b"".join(hashlib.sha256(str(each).encode()).digest() for each in range(20_000))
    (tmp_path / "part.parquet").write_bytes(data)
    (tmp_path / "hidden.parquet").write_bytes(data)
    os.symlink(tmp_path / "hidden.parquet", tmp_path / "link.parquet")
    named = {"part.parquet": len(data), "link.parquet": len(data), "gone.parquet": 5}
    return TableFileSystem([TableFiles("runs", SCHEMA, named, folder=tmp_path)])


def test_threads_that_share_a_file_read_each_where_it_is(files):
    assert read_by_threads(files, 20_000)


def read_by_threads(files: TableFileSystem, count: int) -> bool:
    """Whether sixteen threads that share a file read each of its digests where it is."""
    with_all = files.open("faceid://runs/part.parquet")

    def reads(thread: int) -> bool:
        for each in range(thread, count, 16):
            with_all.seek(32 * each)
            if with_all.read(32) != hashlib.sha256(str(each).encode()).digest():
                return False
        return True

    with ThreadPoolExecutor(16) as pool:
        return all(pool.map(reads, range(16)))


def test_threads_that_share_a_file_on_s3_read_each_what_it_asks_for(s3_store):
    data = b"".join(hashlib.sha256(str(each).encode()).digest() for each in range(2_000))
    s3_store.put_if_absent("part.parquet", data)
    sizes = {"part.parquet": len(data)}
    handler = DeltaStorageHandler(s3_store.url, storage_options(s3_store), sizes)
    shared = TableFileSystem([TableFiles("runs", SCHEMA, sizes, handler=handler)])
    assert read_by_threads(shared, 2_000)


def test_a_large_table_on_s3_is_read_by_several_threads(s3_store):
    """Each row group is read by a thread of its own; here are three, as three hundred people of one night have."""
    tables, made = Tables(s3_store), night(0, 350)
    first, again = {**made}, night(1, 2)
    tables.publish(run_name(0), first)
    tables.publish(run_name(1), again | {"image_metrics": made["image_metrics"]})
    (row,) = tables.query("SELECT count(*) n, count(DISTINCT generate_key) k FROM image_metrics").to_pylist()
    assert row["n"] == made["image_metrics"].num_rows > 2 * ROW_GROUP
    assert row["k"] == 349 + 1, "those who were drawn, and the class word"


def test_only_listed_files_are_there_and_none_through_a_link(files):
    assert files.exists("faceid://runs/part.parquet") and not files.exists("faceid://runs/hidden.parquet")
    assert files.glob("faceid://runs/*") == [] and files.info("faceid://runs/columns.parquet")["size"] > 0
    for path in ("faceid://runs/hidden.parquet", "faceid://images/part.parquet", "/etc/hostname"):
        with pytest.raises(FileNotFoundError):
            files.open(path)
    with pytest.raises(PermissionError):
        files.open("faceid://runs/part.parquet", "wb")
    for name in ("link.parquet", "gone.parquet"):
        with pytest.raises(OSError):
            files.open(f"faceid://runs/{name}")
    assert [name for name, _ in files.lost] == ["runs", "runs"]


def test_a_file_that_is_shorter_than_the_table_says_is_an_error_and_no_short_answer():
    cut = SharedFile(lambda count, at: b"12345"[at : at + count], size=9)
    with pytest.raises(OSError, match="ends at byte 5 of 9"):
        cut.read(9)
    slow = SharedFile(lambda count, at: b"123456789"[at : at + min(2, count)], size=9)
    assert slow.read(-1) == b"123456789" and slow.read(4) == b""


def test_a_file_is_closed_once_no_other_thread_reads_it():
    reading, go_on, closed = threading.Event(), threading.Event(), []

    def slowly(count: int, at: int) -> bytes:
        reading.set()
        assert go_on.wait(30)
        return b"123456789"[at : at + count]

    file, found = SharedFile(slowly, 9, lambda: closed.append(True)), []
    thread = threading.Thread(target=lambda: found.append(file.read(9)))
    thread.start()
    assert reading.wait(30)
    file.close()
    assert file.closed and not closed, "its number may be another file's at once"
    with pytest.raises(ValueError, match="closed"):
        file.read(1)
    go_on.set()
    thread.join(30)
    file.close()
    assert found == [b"123456789"] and closed == [True]


def test_what_a_read_lacked_is_kept_beside_what_duckdb_says_of_it(tmp_path):
    (tmp_path / "cut.parquet").write_bytes(b"12345")
    files = TableFileSystem([TableFiles("runs", pa.schema([]), {"cut.parquet": 9}, folder=tmp_path)])
    opened = files.open("faceid://runs/cut.parquet")
    with pytest.raises(OSError, match="ends at byte"):
        opened.read()
    assert [(name, "ends at byte 5 of 9" in cause) for name, cause in files.lost] == [("runs", True)]
