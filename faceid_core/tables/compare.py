"""Rows that are to be written beside those that a table holds already, compared by DuckDB."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from data_contracts import Contract

from .files import TableFiles

if TYPE_CHECKING:
    import duckdb


class Comparison:
    """Which rows a version of a table lacks, and of which stage keys it says something else."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        files: TableFiles,
        rows: pa.Table,
        agreed: Contract,
        known: set[str],
        leading: str,
    ):
        """Prepare the comparison; nothing is read yet.

        Args:
            connection: has the table's files.
            files: of the table's version.
            rows: that are to be written.
            agreed: the table's contract.
            known: columns that the table has.
            leading: the column of the primary key by which the table's rows are sought.
        """
        self._connection, self._files, self._rows, self._agreed = connection, files, rows, agreed
        self._leading = leading
        # The same result published on another run has another date.
        key = agreed.primary_key
        self._values = [c for c in rows.column_names if c in known and c not in key and c != "run_date"]

    def absent(self) -> pa.Table:
        """The rows whose primary key the table does not hold."""
        if self._there is None:
            return self._rows
        there = self._there
        missing = pc.indices_nonzero(pc.invert(there["is_there"]))
        return self._rows.take(missing)

    def changed(self) -> list[str]:
        """The values of `leading` under which the table holds other values than the rows, sorted."""
        if self._there is None:
            return []
        return sorted(pc.unique(self._rows[self._leading].filter(self._there["is_other"])).to_pylist())

    @cached_property
    def _there(self) -> pa.Table | None:
        """For each row whether its key is there and whether it has other values; None if no row can be there."""
        if not self._files.files:
            return None
        leading, source = self._leading, self._files.sql
        wanted = pa.table({"key": pc.unique(self._rows[leading])})
        self._connection.register("wanted", wanted)
        # One column of the table first: of a new run nothing is there.
        found = self._connection.sql(
            f"SELECT DISTINCT {leading} AS key FROM {source} WHERE {leading} IN (SELECT key FROM wanted)"
        ).to_arrow_table()
        if found.num_rows == 0:
            return None
        self._connection.register("found", found)
        self._connection.register(
            "ours", self._rows.append_column("_position", pa.array(range(self._rows.num_rows), pa.int64()))
        )
        key = self._agreed.primary_key
        columns = ", ".join(f'"{c}"' for c in (*key, *self._values))
        same_key = " AND ".join(f'ours."{c}" = there."{c}"' for c in key)
        other = " OR ".join(f'ours."{c}" IS DISTINCT FROM there."{c}"' for c in self._values) or "false"
        return self._connection.sql(
            f"SELECT there.{leading} IS NOT NULL AS is_there, there.{leading} IS NOT NULL AND ({other}) AS is_other "
            f"FROM ours LEFT JOIN (SELECT {columns} FROM {source} "
            f"WHERE {leading} IN (SELECT key FROM found)) AS there ON {same_key} ORDER BY _position"
        ).to_arrow_table()
