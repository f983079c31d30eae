"""Delta tables in a store: where they lie, and adding rows whose primary key is not there yet."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Schema, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from data_contracts import Contract, contract

from ..errors import ConfigurationError, StoreError, StoreRefused
from ..store.objects import ObjectStore
from ..store.open import is_folder, is_s3
from .storage import folder_name, in_one_line, storage_options, store_of_tables, table_address

log = logging.getLogger(__name__)

_ATTEMPTS = 20
# The library's own pauses are short; with these it outlasts a store that refuses every other request.
_RETRIES = {"max_retries": "16", "backoff_config.max_backoff": "8s", "retry_timeout": "180s"}
# One attempt per snapshot: a later version may hold the same keys, so the rows have to be chosen again.
_EXACTLY_NEXT = CommitProperties(max_commit_retries=0)

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Change:
    """Rows to commit, and how."""

    rows: pa.Table
    mode: Literal["append", "overwrite"]
    predicate: str | None = None
    schema_mode: Literal["merge"] | None = None


class DeltaPlace:
    """Where the tables of one store lie, for a library that reaches the storage by itself."""

    def __init__(self, store: ObjectStore):
        """Take address, endpoint, region and credentials from the store."""
        self.root = store.url
        self._store = store_of_tables(store)

    def open(self, name: str, version: int | None = None) -> DeltaTable | None:
        """The table at a version, or at its latest; None if it was never written.

        Raises:
            StoreError: if the storage fails or the version is gone.
        """
        if self._store is None:
            return None
        if is_folder(self._store):  # delta-rs would follow links
            self._store.refuse_links(folder_name(contract(name)))
        try:
            return DeltaTable(self._uri(name), version=version, storage_options=self._options())
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

    def append(self, name: str, table: pa.Table) -> int:
        """Add the rows whose primary key is not there yet; the others stay as they were first written.

        Args:
            name: the table's.
            table: rows that keep the contract.

        Returns:
            How many rows were added.

        Raises:
            ContractError: if the rows break the contract.
            StoreError: if the storage fails.
        """
        agreed, rows = _checked(name, table)

        return self._until_it_stands(agreed, "append to", lambda delta: _addition(rows, delta, agreed))

    def replace_run(self, name: str, run_id: str, table: pa.Table) -> int:
        """Let these be the rows of a run in a table, whatever an earlier attempt of it wrote, in one commit.

        Args:
            name: the table's; its rows belong to runs.
            run_id: the run.
            table: rows that keep the contract, all of them the run's own.

        Returns:
            How many rows were written; 0 if they stood there already.

        Raises:
            ContractError: if the rows break the contract.
            StoreError: if the storage fails.
        """
        agreed, rows = _checked(name, table)
        mine = pc.field("run_id") == run_id

        def others(delta: DeltaTable) -> _Change | None:
            there = delta.to_pyarrow_dataset().to_table(filter=mine)
            if there.num_rows == 0:
                return _addition(rows, delta, agreed)
            if _same_rows(there, rows, agreed):
                return None
            return _Change(rows, mode="overwrite", predicate=f"run_id = '{run_id}'")

        return self._until_it_stands(agreed, "replace rows of", others)

    def replace_changed(self, name: str, table: pa.Table) -> int:
        """Let a stage's rows be those of its last computation: `--force` may bring other values under the same key.

        Rows that are not there yet are left to `append`, and so is the date under which unchanged ones were written.

        Args:
            name: the table's; its rows belong to stage keys.
            table: rows that keep the contract, all rows of each stage key.

        Returns:
            How many rows were written again; 0 if none says something else.

        Raises:
            ContractError: if the rows break the contract.
            StoreError: if the storage fails.
        """
        agreed, rows = _checked(name, table)
        maker = [column for column in agreed.primary_key if column.endswith("_key")][-1]

        def changed(delta: DeltaTable) -> _Change | None:
            keys = _changed(rows, delta, agreed, maker)
            if not keys:
                return None
            listed = ", ".join(f"'{key}'" for key in keys)
            again = rows.filter(pc.field(maker).isin(keys))
            return _Change(again, mode="overwrite", predicate=f"{maker} IN ({listed})")

        return self._until_it_stands(agreed, "replace rows of", changed, create=False)

    def _until_it_stands(
        self,
        agreed: Contract,
        verb: str,
        wanted: Callable[[DeltaTable], _Change | None],
        *,
        create: bool = True,
    ) -> int:
        """Commit what a table lacks, and look again until it lacks nothing; how many rows the last commit wrote.

        A commit's word is not enough. This process may be stopped inside it for longer than files that no version
        names are kept, or while an erasure ends the table's log; the commit then names files that are gone, or is one
        that no reader comes upon.
        """
        name, written = agreed.name, 0
        for _ in range(_ATTEMPTS):
            delta = self.open(name) or (self._create(agreed) if create else None)
            if delta is None:
                return 0
            try:
                change = wanted(delta)
                if change is None:
                    return written
                before = data_files(delta)
                write_deltalake(
                    delta,
                    change.rows,
                    # deltalake's overloads know a predicate with "overwrite" only, though None goes with both modes.
                    mode=change.mode,  # ty: ignore[invalid-argument-type]
                    predicate=change.predicate,
                    schema_mode=change.schema_mode,
                    commit_properties=_EXACTLY_NEXT,
                )
                self._let_go_of_swept(name, data_files(delta) - before)
                written = change.rows.num_rows
            except CommitFailedError:
                continue
            except (DeltaError, OSError) as error:
                raise self._failed(verb, name, error) from error
        raise StoreError(
            f"table {name} in {self.root} changed {_ATTEMPTS} times while rows were written; try again"
        )

    def _let_go_of_swept(self, name: str, ours: set[str]) -> None:
        """Take files of our own commit out of the table that were swept before it."""
        folder, store = folder_name(contract(name)), self._store
        if store is None or all(store.head(f"{folder}/{file}") for file in ours):
            return
        newest = self.open(name)  # an erasure may have taken them out of the table already
        if newest is None or not ours & data_files(newest):
            return
        gone = {unquote(path) for path in newest.repair(dry_run=True)["files_removed"]}
        if gone and gone <= ours:  # whatever else is missing is damage, and is restored rather than forgotten
            log.warning(
                "%d files of table %s were swept before their commit and are written again", len(gone), name
            )
            newest.repair()

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
    actions = pa.table(delta.get_add_actions(flatten=True))
    return {unquote(path) for path in actions["path"].to_pylist()}


def _checked(name: str, table: pa.Table) -> tuple[Contract, pa.Table]:
    """A table's contract, and the rows in its columns and types. Raises ContractError."""
    agreed = contract(name)
    agreed.check(table)
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


def _addition(rows: pa.Table, delta: DeltaTable, agreed: Contract) -> _Change | None:
    """The rows that a table lacks; None if it lacks none."""
    fresh = _absent(rows, delta, agreed)
    if fresh.num_rows == 0:
        return None
    # A contract's minor version may have brought columns that the table has not seen.
    wider = set(agreed.schema.names) - {field.name for field in delta.schema().fields}
    return _Change(fresh, mode="append", schema_mode="merge" if wider else None)


def _absent(rows: pa.Table, delta: DeltaTable, agreed: Contract) -> pa.Table:
    """The rows whose key the Delta table does not hold."""
    there = _near(rows, delta, agreed, list(agreed.primary_key))
    if there.num_rows == 0:
        return rows
    keyed = rows.select(agreed.primary_key).append_column("_position", pa.array(range(rows.num_rows)))
    left = keyed.join(there, keys=list(agreed.primary_key), join_type="left anti")
    return rows.take(left["_position"].sort())


def _changed(rows: pa.Table, delta: DeltaTable, agreed: Contract, maker: str) -> list[str]:
    """The stage keys, in the column `maker`, under which the Delta table says something else than the rows."""
    key, known = agreed.primary_key, {field.name for field in delta.schema().fields}
    # The same result published on another run has another date.
    values = [c for c in rows.column_names if c in known and c not in key and c not in agreed.partition]
    there = _near(rows, delta, agreed, [*key, *values])
    there = there.rename_columns([*key, *(f"{name}_there" for name in values)])
    both = rows.select([*key, *values]).join(there, keys=list(key), join_type="inner")
    found: set[str] = set()
    for name in values:
        ours, theirs = both[name], both[f"{name}_there"]
        none = pc.and_(pc.is_null(ours, nan_is_null=True), pc.is_null(theirs, nan_is_null=True))
        same = pc.or_(pc.fill_null(pc.equal(ours, theirs), False), none)
        found.update(both.filter(pc.invert(same))[maker].to_pylist())
    return sorted(found)


def _near(rows: pa.Table, delta: DeltaTable, agreed: Contract, columns: list[str]) -> pa.Table:
    """Columns of the Delta table's rows that may have a key of the given rows."""
    leading = agreed.primary_key[0]
    # The first key column narrows the search: one run, or the pictures of a few people.
    narrow = pc.field(leading).isin(pc.unique(rows[leading]))
    if agreed.per_run:
        narrow &= pc.field("run_date").isin(pc.unique(rows["run_date"]))
    return delta.to_pyarrow_dataset().to_table(columns=columns, filter=narrow)
