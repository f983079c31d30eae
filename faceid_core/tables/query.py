"""Publishing a run's tables, and reading them back: always exactly the versions that the catalog names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable

from data_contracts import NAMES, ContractError, contract

from ..errors import StoreError
from ..private import FOLDER_MODE, owner_only
from ..store.objects import ObjectStore
from .catalog import Catalog, advance, read_catalog
from .sql import open_connection, require_reading
from .storage import in_one_line
from .write import DeltaPlace

if TYPE_CHECKING:
    import duckdb


class Tables:
    """The tables of one store."""

    def __init__(self, store: ObjectStore):
        """Look at a store's tables; nothing is read yet."""
        self._store, self._place = store, DeltaPlace(store)

    def append(self, name: str, table: pa.Table) -> int:
        """Add rows whose primary key is not there yet, unseen until `publish`; how many were added.

        Raises:
            ContractError: if the rows break the contract.
            StoreError: if the storage fails.
        """
        return self._place.append(name, table)

    def publish(self, run_id: str, tables: Mapping[str, pa.Table]) -> Catalog:
        """Add a run's rows to every table, then show them to readers together. Again changes nothing.

        A retry of a run replaces what its earlier attempt said of it; pictures and their metrics stay, unless they
        were computed again with another result.

        Args:
            run_id: whose rows these are.
            tables: table -> rows; where there are rows of a run there is the run's own row in `runs`.

        Returns:
            The catalog that readers see now.

        Raises:
            ContractError: if any table breaks its contract; then nothing was written.
            StoreError: if the storage fails; what was written is unseen, and publishing again completes it.
        """
        for name, table in tables.items():
            contract(name).check(table)
            if contract(name).per_run:
                _require_own_rows(name, table, run_id)
        needs_run = any(contract(name).per_run for name in tables)
        if needs_run and ("runs" not in tables or tables["runs"].num_rows == 0):
            raise ContractError("runs", [f"run {run_id} brings rows but no row of its own"])
        # `runs` last: readers tell a run that died half-way by its absence there.
        for name in sorted(tables, key=lambda name: (name == "runs", NAMES.index(name))):
            if contract(name).per_run:
                self._place.replace_run(name, run_id, tables[name])
            else:
                self._place.replace_changed(name, tables[name])
                self._place.append(name, tables[name])
        return advance(self._store, self._place, run_id)

    def catalog(self) -> Catalog:
        """Which version of each table readers see. Raises StoreError."""
        return read_catalog(self._store)[0]

    def read(self, name: str) -> pa.Table:
        """A table as it was last published, with the contract's columns; empty before the first run.

        Raises:
            KeyError: if there is no such table.
            StoreError: if the storage fails.
        """
        return self._load(name, self._datasets()[name])

    def connect(self, *, locked: bool = True) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection in memory with one view per table, named after it.

        Args:
            locked: nothing but these tables can be read, nothing written, and no setting changed. False opens the
                machine's files, the network, extensions and this process's variables, as DuckDB by itself does.

        Raises:
            StoreError: if the storage fails.
        """
        connection = open_connection(locked=locked)
        for name, dataset in self._datasets().items():
            connection.register(name, dataset)
        return connection

    def query(self, sql: str, *, locked: bool = True) -> pa.Table:
        """The rows that a query gives.

        Args:
            sql: statements that read (SELECT and its kin); of several, the last one's rows are given.
            locked: as in `connect`. False runs statements of every kind, too.

        Raises:
            ConfigurationError: locked, and a statement does not only read.
            duckdb.Error: faulty SQL, or SQL that reaches for what is locked.
            StoreError: if the storage fails.
        """
        with self.connect(locked=locked) as connection:
            if locked:
                require_reading(connection, sql)
            relation = connection.sql(sql)
            return pa.table({}) if relation is None else relation.to_arrow_table()

    def export(self, folder: str | Path) -> list[Path]:
        """Write every table as one plain Parquet file, the owner's alone, for readers that know no Delta.

        Args:
            folder: made if absent; files of the same names are replaced.

        Returns:
            The files.

        Raises:
            StoreError: if the storage fails.
        """
        folder = Path(folder)
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        files = []
        for name, dataset in self._datasets().items():
            file = folder / f"{name}.parquet"
            temporary = file.with_suffix(".parquet.new")
            with open(temporary, "wb", opener=owner_only) as written:
                pq.write_table(self._load(name, dataset), written)
            os.replace(temporary, file)
            files.append(file)
        return files

    def _load(self, name: str, dataset: ds.Dataset) -> pa.Table:
        try:
            return dataset.to_table()
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"cannot read table {name} in {self._store.url}: {in_one_line(error)}; restore its files"
            ) from error

    def _datasets(self) -> dict[str, ds.Dataset]:
        found = self._open_shown()
        datasets = {
            name: found.get(name) or ds.dataset(contract(name).schema.empty_table()) for name in NAMES
        }
        whole = pa.array(self._load("runs", datasets["runs"])["run_id"].to_pylist(), pa.string())
        return {
            name: dataset.filter(pc.field("run_id").isin(whole)) if contract(name).per_run else dataset
            for name, dataset in datasets.items()
        }

    def _open_shown(self) -> dict[str, ds.Dataset | None]:
        """The tables at the catalog's versions; an erasure may move it and end the older versions meanwhile."""
        while True:
            versions = self.catalog().versions
            try:
                return {
                    # The contract's schema fills columns that are younger than the version with nulls.
                    name: self._place.read(name, partial(_dataset, schema=contract(name).schema), version)
                    for name, version in versions.items()
                }
            except StoreError:
                if self.catalog().versions == versions:
                    raise


def _dataset(delta: DeltaTable, *, schema: pa.Schema) -> ds.Dataset:
    return delta.to_pyarrow_dataset(schema=schema)


def _require_own_rows(name: str, table: pa.Table, run_id: str) -> None:
    others = set(pc.unique(table["run_id"]).to_pylist()) - {run_id}
    if others:
        raise ContractError(name, [f"rows of run {', '.join(sorted(others))} among those of run {run_id}"])
