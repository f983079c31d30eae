"""Bring the tables of version 1 over to version 2: other names, no partitions, results of stages in place of a map.

Rows keep what they say. What version 1 did not record (photo digests, seconds of stages, why a value is missing) is null
in them, or says `unknown`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from data_contracts import NAMES, contract
from data_contracts.contract import released
from faceid_core.errors import ObjectMissing
from faceid_core.store.layout import CATALOG
from faceid_core.store.objects import ObjectStore
from faceid_core.store.records import CatalogRecord, parse_record
from faceid_core.tables.catalog import advance
from faceid_core.tables.columns import RENAMED
from faceid_core.tables.storage import store_of_tables
from faceid_core.tables.write import DeltaPlace
from faceid_core.upkeep.tables import compact

FIRST = "0.1.0"
_STAGES = {"personalise": "personalize"}
_ROWS = 1_000_000  # of a table that are held in memory at once


def migrate_tables(store: ObjectStore) -> dict[str, int]:
    """Write the rows that readers of version 1 see into the tables of version 2, show them, and remove version 1.

    A kill at any point loses nothing, and doing it again goes on.

    Args:
        store: any store; nothing else may be writing to it.

    Returns:
        table -> rows brought over; empty if there was nothing to bring.

    Raises:
        StoreError: the storage fails.
    """
    files = store_of_tables(store)
    if files is None:
        return {}
    found: dict[str, int] = {}
    versions = _versions_1(store)
    if versions:
        place = DeltaPlace(store)
        runs = _whole_runs(place, versions)
        # `runs` last, as every writer does.
        for name in sorted(versions, key=lambda name: (name == "runs", NAMES.index(name))):
            found[name] = sum(
                place.append(name, rows, checked=False) for rows in _rows(place, name, versions[name], runs)
            )
        compact(store)
        advance(store, place, "migration")
    # After the catalog: readers see the new tables, and an erasure would not look for rows here.
    for name in NAMES:
        for info in list(files.list(f"{_folder_1(name)}/")):
            files.delete(info.name)
    return found


def _folder_1(name: str) -> str:
    return f"tables/{name}/v1"


def _versions_1(store: ObjectStore) -> dict[str, int]:
    """The versions of the tables of version 1 that the catalog shows. Raises DamagedRecord."""
    try:
        data = store.get(CATALOG)
    except ObjectMissing:
        return {}
    record = parse_record(data, CatalogRecord, name=CATALOG, url=store.url, advice="restore it from a backup")
    return {
        name: row.version
        for name, row in record.tables.items()
        if name in NAMES and row.folder == _folder_1(name)
    }


def _whole_runs(place: DeltaPlace, versions: Mapping[str, int]) -> pa.Array:
    """Runs whose publication was finished: of the others readers see no row."""
    delta = place.open("runs", versions.get("runs"), folder=_folder_1("runs")) if "runs" in versions else None
    if delta is None:
        return pa.array([], pa.string())
    return delta.to_pyarrow_dataset().to_table(columns=["run_id"])["run_id"].combine_chunks()


def _rows(place: DeltaPlace, name: str, version: int, runs: pa.Array) -> Iterator[pa.Table]:
    """The rows of a table as version 2 has them, some files at a time."""
    delta = place.open(name, version, folder=_folder_1(name))
    if delta is None:
        return
    dataset = delta.to_pyarrow_dataset(schema=released(FIRST)[name].schema)
    is_whole = pc.field("run_id").isin(runs) if contract(name).per_run else None
    waiting: list[pa.Table] = []
    for fragment in dataset.get_fragments():
        waiting.append(fragment.to_table(schema=dataset.schema, filter=is_whole))
        if sum(table.num_rows for table in waiting) >= _ROWS:
            yield _converted(name, pa.concat_tables(waiting))
            waiting = []
    if waiting:
        yield _converted(name, pa.concat_tables(waiting))


def _converted(name: str, old: pa.Table) -> pa.Table:
    """Rows of version 1 in the columns of version 2."""
    agreed = contract(name)
    table = old.rename_columns([RENAMED.get(column, column) for column in old.column_names])
    columns = {column: table[column] for column in table.column_names}
    if name == "identity_outcomes":
        columns["stage"] = pa.array(
            [_STAGES.get(stage, stage) for stage in table["stage"].to_pylist()], pa.string()
        )
        columns["stage_results"] = pa.array(
            [_results(row) for row in table.to_pylist()], agreed.schema.field("stage_results").type
        )
    if name == "image_metrics":
        columns["null_reason"] = pc.if_else(
            pc.is_null(table["value"]), "unknown", pa.scalar(None, pa.string())
        )
    arrays = [columns.get(field.name, pa.nulls(table.num_rows, field.type)) for field in agreed.schema]
    return pa.table(arrays, names=agreed.schema.names).cast(agreed.schema)


def _results(row: Mapping) -> list[dict]:
    """The stage keys of an outcome, which is all that version 1 knows of its results."""
    stages = ("detect", "parse", "mask", "personalize", "generate")
    keys = {stage: row[f"{stage}_key"] for stage in stages if row[f"{stage}_key"]} | dict(
        row["score_keys"] or ()
    )
    return [{"stage": stage, "stage_key": key} for stage, key in sorted(keys.items())]
