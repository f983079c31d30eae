"""The tables of all runs: Delta Lake in the store, a catalog that shows a run's tables together, and SQL.

`write` adds rows that are not there yet, `catalog` names the versions that readers see, `query` reads
exactly those. `docs/design/tables.md` explains the choices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..store.open import open_store
from .catalog import Catalog
from .query import Rows, Tables, portions, reading_errors

if TYPE_CHECKING:
    import duckdb

__all__ = ["Catalog", "Rows", "Tables", "connect", "portions", "reading_errors"]


def connect(store: str, *, locked: bool = True) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with a view per table of a store, and the views of `tables.views`.

    Args:
        store: a folder's path, `file:///folder` or `s3://bucket/prefix`; S3 is reached as the environment says.
        locked: as in `Tables.connect`.

    Raises:
        ConfigurationError: the address is of another kind.
        StoreError: the storage fails.
    """
    return Tables(open_store(store)).connect(locked=locked)
