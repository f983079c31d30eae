"""The data files of table versions as a file system that DuckDB reads: read-only, and nothing besides these files.

DuckDB's own Parquet reader takes 6 to 36 times less CPU time than DuckDB over Arrow datasets. It opens files through a
registered file system, which works with external access off and hands out exactly the files that were listed, from a
folder as well as from S3.
"""

from __future__ import annotations

import datetime as dt
import functools
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from fsspec import AbstractFileSystem

from .sql import PROTOCOL

_COLUMNS = "columns.parquet"  # an empty file that has every column of the table's contract


@dataclass(frozen=True)
class TableFiles:
    """The data files of one version of a table.

    Attributes:
        name: the table's.
        schema: the columns that readers see.
        files: paths below the table's folder -> size in bytes.
        folder: where they lie, for a store in a folder.
        handler: opens them, for any other store.
    """

    name: str
    schema: pa.Schema
    files: Mapping[str, int] = field(default_factory=dict)
    folder: Path | None = None
    handler: DeltaStorageHandler | None = None

    @property
    def sql(self) -> str:
        """A table function of DuckDB over the files, with the columns of the schema; for a connection that has them."""
        # The first file brings the columns that are younger than all files; by name, older files lack some.
        names = ", ".join(f"'{PROTOCOL}://{self.name}/{file}'" for file in (_COLUMNS, *self.files))
        return f"read_parquet([{names}], union_by_name = true, hive_partitioning = false)"

    def open(self, file: str) -> BinaryIO:
        """One of the files, for reading.

        Raises:
            OSError: it cannot be opened.
        """
        if file == _COLUMNS:
            return io.BytesIO(_empty(self.schema))
        if self.folder is not None:
            return os.fdopen(os.open(self.folder / file, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0)
        assert self.handler is not None, "files lie in a folder or behind a handler"
        return pa.PythonFile(self.handler.open_input_file(file), mode="r")

    def size(self, file: str) -> int:
        """Bytes of one of the files. Raises KeyError."""
        return len(_empty(self.schema)) if file == _COLUMNS else self.files[file]


@functools.lru_cache
def _empty(schema: pa.Schema) -> bytes:
    sink = io.BytesIO()
    pq.write_table(schema.empty_table(), sink)
    return sink.getvalue()


class TableFileSystem(AbstractFileSystem):
    """Reads `faceid://<table>/<file>` for the files of given table versions; everything else is not there.

    DuckDB reports a file that cannot be opened in its own words; `lost` keeps the name and the cause.
    """

    protocol = PROTOCOL
    cachable = False

    def __init__(self, tables: Sequence[TableFiles]):
        super().__init__()
        self._tables = {each.name: each for each in tables}
        self.lost: list[tuple[str, str]] = []

    def _find(self, path: str) -> tuple[TableFiles, str] | None:
        name, _, file = path.removeprefix(f"{PROTOCOL}://").partition("/")
        found = self._tables.get(name)
        return (found, file) if found is not None and (file == _COLUMNS or file in found.files) else None

    def info(self, path: str, **_: Any) -> dict:
        """Size and kind of a file. Raises FileNotFoundError."""
        found = self._find(path)
        if found is None:
            raise FileNotFoundError(path)
        return {"name": path, "size": found[0].size(found[1]), "type": "file"}

    def exists(self, path: str, **_: Any) -> bool:
        """Whether a path is one of the files."""
        return self._find(path) is not None

    def isfile(self, path: str) -> bool:
        """Whether a path is one of the files."""
        return self._find(path) is not None

    def isdir(self, path: str) -> bool:
        """There are no folders."""
        return False

    def glob(self, path: str, maxdepth: int | None = None, **_: Any) -> list[str]:
        """A path that is one of the files, and nothing for a pattern."""
        return [path] if self._find(path) is not None else []

    def modified(self, path: str) -> dt.datetime:
        """The same moment for every file: data files of a Delta table never change."""
        return dt.datetime.fromtimestamp(0, dt.UTC)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict | None = None,
        **_: Any,
    ) -> BinaryIO:
        if mode != "rb":
            raise PermissionError("the files of the tables are only read")
        found = self._find(path)
        if found is None:
            raise FileNotFoundError(path)
        try:
            return found[0].open(found[1])
        except Exception as error:
            self.lost.append((found[0].name, str(error)))
            raise


def file_sizes(delta: DeltaTable) -> dict[str, int]:
    """The files that a version of a table consists of: path below its folder -> size in bytes."""
    actions = pa.table(delta.get_add_actions(flatten=True))
    paths = map(unquote, actions["path"].to_pylist())
    return dict(zip(paths, actions["size_bytes"].to_pylist(), strict=True))
