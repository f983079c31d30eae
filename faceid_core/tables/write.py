"""Delta tables in a store: where they lie, and adding rows whose primary key is not there yet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Schema, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler

from data_contracts import Contract, contract

from ..errors import ConfigurationError, StoreError, StoreRefused
from ..store.folder import folder_of
from ..store.objects import ObjectStore
from ..store.open import is_folder, is_s3
from .compaction import ROW_GROUP, merge, mergeable
from .compare import Comparison
from .files import TableFiles, TableFileSystem, file_sizes
from .sql import open_connection
from .storage import folder_name, in_one_line, storage_options, store_of_tables, table_address

log = logging.getLogger(__name__)

_ATTEMPTS = 20
# The library's own pauses are short; with these it outlasts a store that refuses every other request.
_RETRIES = {"max_retries": "16", "backoff_config.max_backoff": "8s", "retry_timeout": "180s"}
_WRITER = WriterProperties(compression="ZSTD", compression_level=1, max_row_group_size=ROW_GROUP)

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Change:
    """Rows to commit, and how; `is_last` if the table then lacks nothing."""

    rows: pa.Table
    mode: Literal["append", "overwrite"]
    predicate: str | None = None
    schema_mode: Literal["merge"] | None = None
    is_last: bool = True


class DeltaPlace:
    """Where the tables of one store lie, for a library that reaches the storage by itself."""

    def __init__(self, store: ObjectStore):
        """Take address, endpoint, region and credentials from the store."""
        self.root = store.url
        self._store = store_of_tables(store)
        self._newest: dict[str, DeltaTable] = {}  # as a write of ours left them, for the compaction that follows it

    def files(self, name: str, delta: DeltaTable) -> TableFiles:
        """The data files of an opened version of a table, for DuckDB."""
        schema, sizes = contract(name).schema, file_sizes(delta)
        if self._store is not None and is_folder(self._store):
            return TableFiles(
                name, schema, sizes, folder=folder_of(self._store.url) / folder_name(contract(name))
            )
        # The Delta library reaches its files by credentials and settings of the store.
        handler = DeltaStorageHandler(self._uri(name), self._options(), sizes)
        return TableFiles(name, schema, sizes, handler=handler)

    def open(self, name: str, version: int | None = None, *, folder: str = "") -> DeltaTable | None:
        """The table at a version, or at its latest; None if it was never written.

        Args:
            name: the table's.
            version: its version.
            folder: where it lies below the store; empty for the folder of the contract's major version.

        Raises:
            StoreError: if the storage fails or the version is gone.
        """
        if self._store is None:
            return None
        folder = folder or folder_name(contract(name))
        if is_folder(self._store):  # delta-rs would follow links
            self._store.refuse_links(folder)
        try:
            return DeltaTable(
                table_address(self._store, folder), version=version, storage_options=self._options()
            )
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            raise self._failed("open", name, error) from error

    def probe(self, name: str) -> None:
        """Make sure that this library and the store mean the same place; a table that is not there is made, empty.

        Raises:
            ConfigurationError: what one writes the other does not see.
            StoreError: the storage fails.
        """
        log = f"{folder_name(contract(name))}/_delta_log/"
        if self.open(name) is None:
            self._create(contract(name))
        if self._store is None or not any(self._store.list(log)):
            raise ConfigurationError(
                f"the tables of {self.root} cannot be kept there: what the tables' library wrote as {log} the store does "
                "not list. Look for proxies and for AWS_ variables that only one of the two reads; choose a plain prefix"
            )

    def append(self, name: str, table: pa.Table, *, checked: bool = True) -> int:
        """Add the rows whose primary key is not there yet; the others stay as they were first written.

        Args:
            name: the table's.
            table: rows that keep the contract.
            checked: hold them to it; False for rows that an earlier version of it let in, which have its columns.

        Returns:
            How many rows were added.

        Raises:
            ContractError: if the rows break the contract.
            StoreError: if the storage fails.
        """
        agreed, rows = _checked(name, table) if checked else _ordered(name, table)

        def lacking(delta: DeltaTable) -> _Change | None:
            with self._compared(rows, delta, agreed, agreed.primary_key[0]) as found:
                return _addition(found.absent(), delta, agreed)

        return self._until_it_stands(agreed, "append to", lacking)

    def replace_run(self, name: str, run_id: str, table: pa.Table, *, checked: bool = True) -> int:
        """Let these be the rows of a run in a table, whatever an earlier attempt of it wrote, in one commit.

        Args:
            name: the table's; its rows belong to runs.
            run_id: the run.
            table: rows that keep the contract, all of them the run's own.
            checked: hold them to it; False if that was done.

        Returns:
            How many rows were written; 0 if they stood there already.

        Raises:
            ContractError: if the rows break the contract.
            StoreError: if the storage fails.
        """
        agreed, rows = _checked(name, table) if checked else _ordered(name, table)
        mine = pc.field("run_id") == run_id

        def others(delta: DeltaTable) -> _Change | None:
            there = delta.to_pyarrow_dataset().to_table(filter=mine)
            if there.num_rows == 0:
                return _addition(rows, delta, agreed)
            if _same_rows(there, rows, agreed):
                return None
            return _Change(rows, mode="overwrite", predicate=f"run_id = '{run_id}'")

        return self._until_it_stands(agreed, "replace rows of", others)

    def write_once(self, name: str, table: pa.Table, *, checked: bool = True) -> int:
        """Add the rows that are not there yet, and let a stage's rows be those of its last computation.

        `--force` may bring other values under the same key; unchanged rows keep the date under which they were written.
        Of the table only the stage keys are read, and whole rows of those that are there already.

        Args:
            name: the table's; its rows belong to stage keys.
            table: rows that keep the contract, all rows of each stage key.
            checked: hold them to it; False if that was done.

        Returns:
            How many rows the last commit wrote; 0 if they stood there already.

        Raises:
            ContractError: if the rows break the contract.
            StoreError: if the storage fails.
        """
        agreed, rows = _checked(name, table) if checked else _ordered(name, table)
        maker = [column for column in agreed.primary_key if column.endswith("_key")][-1]

        def wanted(delta: DeltaTable) -> _Change | None:
            with self._compared(rows, delta, agreed, maker) as found:
                keys = found.changed()
                if keys:
                    listed = ", ".join(f"'{key}'" for key in keys)
                    again = rows.filter(pc.field(maker).isin(keys))
                    return _Change(again, mode="overwrite", predicate=f"{maker} IN ({listed})", is_last=False)
                return _addition(found.absent(), delta, agreed)

        return self._until_it_stands(agreed, "write to", wanted)

    def compact(self, name: str, *, target_bytes: int, least_files: int = 2) -> int:
        """Rewrite files that are smaller than a size as fewer files of about that size; the rows stay the same.

        The old files are removed by the collection of garbage, or by the next erasure. Beside a writer that is quicker
        nothing happens, and the next call does it.

        Args:
            name: the table's.
            target_bytes: the size.
            least_files: how many smaller files there must be.

        Returns:
            How many files were replaced.

        Raises:
            StoreError: if the storage fails.
        """
        delta = self._newest.pop(name, None) or self.open(name)
        groups = [] if delta is None else mergeable(file_sizes(delta), target_bytes, least_files)
        if delta is None or self._store is None or not groups:
            return 0
        store, folder = self._store, folder_name(contract(name))
        try:
            return merge(
                delta,
                groups,
                contract(name).metadata,
                lambda file, data: store.put_if_absent(f"{folder}/{file}", data),
            )
        except CommitFailedError:
            return 0
        except (DeltaError, OSError) as error:
            raise self._failed("compact", name, error) from error

    @contextmanager
    def _compared(
        self, rows: pa.Table, delta: DeltaTable, agreed: Contract, leading: str
    ) -> Generator[Comparison]:
        """Rows beside those of the table that have one of their values in the column `leading`."""
        import duckdb  # a run that publishes nothing does without it

        files = self.files(agreed.name, delta)
        system = TableFileSystem([files])
        try:
            with open_connection(locked=True, files=system) as connection:
                yield Comparison(
                    connection, files, rows, agreed, {f.name for f in delta.schema().fields}, leading
                )
        except duckdb.Error as error:
            cause = system.lost[0][1] if system.lost else error
            raise OSError(in_one_line(str(cause))) from error

    def _until_it_stands(
        self,
        agreed: Contract,
        verb: str,
        wanted: Callable[[DeltaTable], _Change | None],
    ) -> int:
        """Commit what a table lacks, and look again until it lacks nothing; how many rows the last commit wrote.

        A commit's word is not enough. This process may be stopped inside it for longer than files that no version
        names are kept, or while an erasure ends the table's log; the commit then names files that are gone, or is one
        that no reader comes upon.
        """
        name, written = agreed.name, 0
        for _ in range(_ATTEMPTS):
            delta = self.open(name) or self._create(agreed)
            try:
                change = wanted(delta)
                if change is None:
                    self._newest[name] = delta
                    return written
                before = data_files(delta)
                write_deltalake(
                    delta,
                    change.rows,
                    # deltalake's overloads know a predicate with "overwrite" only, though None goes with both modes.
                    mode=change.mode,  # ty: ignore[invalid-argument-type]
                    predicate=change.predicate,
                    schema_mode=change.schema_mode,
                    writer_properties=_WRITER,
                    # One attempt for each snapshot: a later version may hold the same keys, so rows are chosen again.
                    commit_properties=CommitProperties(custom_metadata=agreed.metadata, max_commit_retries=0),
                )
                written = change.rows.num_rows
                newest = self._standing(name, data_files(delta) - before)
                if newest is not None and change.is_last:
                    self._newest[name] = newest
                    return written
            except CommitFailedError:
                continue
            except (DeltaError, OSError) as error:
                raise self._failed(verb, name, error) from error
        raise StoreError(
            f"table {name} in {self.root} changed {_ATTEMPTS} times while rows were written; try again"
        )

    def _standing(self, name: str, ours: set[str]) -> DeltaTable | None:
        """The newest version if its readers find the files of our own commit, else None.

        Files that were swept before their commit are taken out of the table; the rows are then written again.
        """
        folder, store = folder_name(contract(name)), self._store
        newest = self.open(name)  # an erasure may have ended the log, or taken the files out of the table
        if store is None or newest is None or not ours & data_files(newest):
            return None
        if all(store.head(f"{folder}/{file}") for file in ours):
            return newest if ours <= data_files(newest) else None
        gone = {unquote(path) for path in newest.repair(dry_run=True)["files_removed"]}
        if gone and gone <= ours:  # whatever else is missing is damage, and is restored rather than forgotten
            log.warning(
                "%d files of table %s were swept before their commit and are written again", len(gone), name
            )
            newest.repair()
        return None

    def read(
        self, name: str, read: Callable[[DeltaTable], Result], version: int | None = None
    ) -> Result | None:
        """Apply `read` to the table at a version; None if there is no table. Raises StoreError."""
        delta = self.open(name, version)
        try:
            return None if delta is None else read(delta)
        except (DeltaError, OSError) as error:
            raise self._failed("read", name, error) from error

    def _create(self, agreed: Contract) -> DeltaTable:
        if self._store is None:
            raise StoreError(f"no table can be kept below {self.root}; use a store with a plain prefix")
        if is_folder(self._store):  # delta-rs would make it as open as the umask lets it
            self._store.make_folder(folder_name(agreed))
        try:
            return DeltaTable.create(
                self._uri(agreed.name),
                Schema.from_arrow(agreed.schema),
                mode="ignore",
                partition_by=list(agreed.partition),
                name=agreed.name,
                storage_options=self._options(),
                commit_properties=CommitProperties(custom_metadata={"contract": agreed.version}),
            )
        except (DeltaError, OSError) as error:
            delta = self.open(agreed.name)  # somebody else may have made it in this moment
            if delta is None:
                raise self._failed("create", agreed.name, error) from error
            return delta

    def _uri(self, name: str) -> str:
        assert self._store is not None, "callers have answered for a store without tables"
        return table_address(self._store, folder_name(contract(name)))

    def _options(self) -> dict[str, str] | None:
        store = self._store
        return storage_options(store) | _RETRIES if store is not None and is_s3(store) else None

    def _failed(self, verb: str, name: str, error: Exception) -> StoreError:
        told = in_one_line(error)
        if self._store is None or is_folder(self._store):
            return StoreError(f"cannot {verb} table {name} in {self.root}: {told}; check space and network")
        from ..store.s3_advice import advise_words

        advice = advise_words(told)
        text = f"cannot {verb} table {name} in {self.root}: {told}; {advice.text}"
        return StoreRefused(text, advice.text) if advice.refused else StoreError(text)


def data_files(delta: DeltaTable) -> set[str]:
    """The files that a version of a table consists of, by their path below its folder."""
    return set(file_sizes(delta))


def _checked(name: str, table: pa.Table) -> tuple[Contract, pa.Table]:
    """A table's contract, and the rows in its columns and types. Raises ContractError."""
    contract(name).check(table)
    return _ordered(name, table)


def _ordered(name: str, table: pa.Table) -> tuple[Contract, pa.Table]:
    """A table's contract, and the rows in its columns and types."""
    agreed = contract(name)
    return agreed, table.select(agreed.schema.names).cast(agreed.schema)


def _same_rows(there: pa.Table, rows: pa.Table, agreed: Contract) -> bool:
    """Whether a table's rows of a run are those to be written, in any order."""
    if set(there.column_names) != set(rows.column_names) or there.num_rows != rows.num_rows:
        return False
    order = [(name, "ascending") for name in agreed.primary_key]
    first, second = (
        repr(each.select(agreed.schema.names).cast(agreed.schema).sort_by(order).to_pylist())
        for each in (there, rows)
    )
    return first == second  # as text, in which a figure that is no number equals itself


def _addition(fresh: pa.Table, delta: DeltaTable, agreed: Contract) -> _Change | None:
    """The rows that a table lacks; None if it lacks none."""
    if fresh.num_rows == 0:
        return None
    # A contract's minor version may have brought columns that the table has not seen.
    wider = set(agreed.schema.names) - {field.name for field in delta.schema().fields}
    return _Change(fresh, mode="append", schema_mode="merge" if wider else None)
