"""Publishing a run's tables, and reading them back: always exactly the versions that the catalog names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_contracts import NAMES, ContractError, contract

from ..errors import ConfigurationError, StoreError
from ..private import FOLDER_MODE, replaced
from ..store.objects import ObjectStore
from .catalog import Catalog, advance, read_catalog
from .files import TableFiles, TableFileSystem
from .promoted import read_promoted
from .sql import arrow_of, lock, names_in, open_connection, require_reading
from .storage import in_one_line
from .views import VIEWS, with_needed
from .write import DeltaPlace

if TYPE_CHECKING:
    import duckdb

# A publication merges files when a table has so many smaller ones; that takes a second at most.
MOST_SMALL_FILES, MERGED_BYTES = 4, 32 << 20
_EXPORT_ROWS = 250_000
Result = TypeVar("Result")
# A table, or a function that makes it portion by portion, each time anew: more rows than memory holds at once.
Rows = pa.Table | Callable[[], Iterable[pa.Table]]


def portions(rows: Rows) -> Iterable[pa.Table]:
    """The tables that rows consist of."""
    return rows() if callable(rows) else (rows,)


def reading_errors() -> tuple[type[Exception], ...]:
    """What reading the tables with sound SQL may raise, for readers that go on without them; DuckDB may lack memory."""
    import duckdb

    return ConfigurationError, StoreError, duckdb.Error


class Tables:
    """The tables of one store."""

    def __init__(self, store: ObjectStore):
        """Look at a store's tables; nothing is read yet."""
        self._store, self._place = store, DeltaPlace(store)

    def publish(self, run_id: str, tables: Mapping[str, Rows]) -> Catalog:
        """Add a run's rows to every table, then show them to readers together. Again changes nothing.

        A retry of a run replaces what its earlier attempt said of it; pictures and their metrics stay, unless they
        were computed again with another result.

        Args:
            run_id: whose rows these are.
            tables: table -> rows; where there are rows of a run there is the run's own row in `runs`. Those that are
                written once may come in portions, with all rows of a stage key in one of them; each is a commit.

        Returns:
            The catalog that readers see now.

        Raises:
            ContractError: if any table breaks its contract; then nothing was written.
            StoreError: if the storage fails; what was written is unseen, and publishing again completes it.
        """
        counts = dict.fromkeys(tables, 0)
        for name, rows in tables.items():
            for table in portions(rows):
                contract(name).check(table)
                if contract(name).per_run:
                    _require_own_rows(name, table, run_id)
                counts[name] += table.num_rows
        needs_run = any(contract(name).per_run for name in tables)
        if needs_run and not counts.get("runs"):
            raise ContractError("runs", [f"run {run_id} brings rows but no row of its own"])
        # `runs` last: readers tell a run that died half-way by its absence there.
        for name in sorted(tables, key=lambda name: (name == "runs", NAMES.index(name))):
            if contract(name).per_run:
                whole = pa.concat_tables(portions(tables[name]))
                self._place.replace_run(name, run_id, whole, checked=False)
            else:
                for table in portions(tables[name]):
                    self._place.write_once(name, table, checked=False)
            self._place.compact(name, target_bytes=MERGED_BYTES, least_files=MOST_SMALL_FILES)
        return advance(self._store, self._place, run_id)

    def catalog(self) -> Catalog:
        """Which version of each table readers see. Raises StoreError."""
        return read_catalog(self._store)[0]

    def promoted(self) -> dict[str, str]:
        """Name of a run -> the run that downstream readers use. Raises StoreError."""
        return read_promoted(self._store)

    def read(self, name: str) -> pa.Table:
        """A table as it was last published, with the contract's columns; empty before the first run.

        Raises:
            KeyError: if there is no such table.
            StoreError: if the storage fails.
        """
        schema = contract(name).schema
        return self._ask((name,), lambda opened: opened.sql(f"FROM {name}").to_arrow_table()).cast(schema)

    def connect(self, *, locked: bool = True) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection in memory with a view per table, named after it, and those of `tables.views`.

        Args:
            locked: nothing but these tables can be read, nothing written, and no setting changed. False opens the
                machine's files, the network, extensions and this process's variables, as DuckDB by itself does.

        Raises:
            StoreError: if the storage fails.
        """
        return self._ask((*NAMES, *VIEWS), lambda opened: opened, locked=locked, keep=True)

    def query(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None, *, locked: bool = True
    ) -> pa.Table:
        """The rows that a query gives.

        Args:
            sql: statements that read (SELECT and its kin); of several, the last one's rows are given. Only tables that
                the text names are opened.
            params: values for `?`, or for `$name`; a value from outside belongs here, never into the text.
            locked: as in `connect`. False runs statements of every kind, too.

        Raises:
            ConfigurationError: locked, and a statement does not only read.
            duckdb.Error: faulty SQL, or SQL that reaches for what is locked.
            StoreError: if the storage fails.
        """

        def answer(connection: duckdb.DuckDBPyConnection) -> pa.Table:
            if locked:
                require_reading(connection, sql)
            relation = connection.sql(sql, params=params)
            return pa.table({}) if relation is None else arrow_of(relation)

        return self._ask(names_in(sql, (*NAMES, *VIEWS)), answer, locked=locked)

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
        return [self._export(name, folder / f"{name}.parquet") for name in NAMES]

    def _export(self, name: str, file: Path) -> Path:
        def write(connection: duckdb.DuckDBPyConnection) -> None:
            schema = contract(name).schema
            with (
                replaced(file) as written,
                pq.ParquetWriter(
                    written, schema.with_metadata(contract(name).metadata), compression="zstd"
                ) as writer,
            ):
                for batch in connection.sql(f"FROM {name}").to_arrow_reader(_EXPORT_ROWS):
                    writer.write_table(pa.Table.from_batches([batch]).cast(schema))

        self._ask((name,), write)
        return file

    def _ask(
        self,
        names: Iterable[str],
        use: Callable[[duckdb.DuckDBPyConnection], Result],
        *,
        locked: bool = True,
        keep: bool = False,
    ) -> Result:
        """What `use` makes of a connection with tables and views; `keep` leaves the connection open."""
        import duckdb

        tables, views = with_needed(names)

        while True:
            versions = self.catalog().versions
            connection, files = None, None
            try:
                shown = self._open_shown(versions, tables)
                files = TableFileSystem(shown)
                connection = open_connection(locked=locked, files=files)
                for each in shown:
                    connection.execute(f"CREATE VIEW {each.name} AS {_view(each)}")
                for name in views:
                    connection.execute(VIEWS[name].sql)
                if promoted := list(read_promoted(self._store).items()) if "promoted" in views else []:
                    connection.executemany("INSERT INTO promoted VALUES (?, ?)", promoted)
                if locked:
                    lock(connection)
                answer = use(connection)
                if keep:
                    connection = None
                return answer
            except (StoreError, duckdb.Error) as error:
                # An erasure may move the catalog and remove the files of older versions meanwhile.
                if self.catalog().versions != versions:
                    continue
                if files is None or not files.lost:
                    raise
                name, cause = files.lost[0]
                raise StoreError(
                    f"cannot read table {name} in {self._store.url}: {in_one_line(cause)}; restore its files"
                ) from error
            finally:
                if connection is not None:
                    connection.close()

    def _open_shown(self, versions: Mapping[str, int], names: Iterable[str]) -> list[TableFiles]:
        """The files of tables at the versions that readers see."""
        found = []
        for name in names:
            schema = contract(name).schema
            version = versions.get(name)
            files = None
            if version is not None:
                files = self._place.read(name, partial(self._place.files, name), version)
            found.append(files or TableFiles(name, schema))
        return found


def _view(table: TableFiles) -> str:
    """The rows of a table that readers see: of runs that died while they were published they see none."""
    columns = ", ".join(f'"{column}"' for column in table.schema.names)
    whole = " WHERE run_id IN (SELECT run_id FROM runs)"
    is_filtered = contract(table.name).per_run and table.name != "runs"
    return f"SELECT {columns} FROM {table.sql}{whole if is_filtered else ''}"


def _require_own_rows(name: str, table: pa.Table, run_id: str) -> None:
    others = set(pc.unique(table["run_id"]).to_pylist()) - {run_id}
    if others:
        raise ContractError(name, [f"rows of run {', '.join(sorted(others))} among those of run {run_id}"])
