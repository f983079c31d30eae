"""What the files of the tables still hold of erased people: of every version, and those that none names yet."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from data_contracts import NAMES, contract
from faceid_core.tables.catalog import read_catalog
from faceid_core.tables.storage import folder_name, store_of_tables
from faceid_core.tables.write import DeltaPlace, data_files

from ..errors import DamagedRecord, ObjectMissing, StoreError
from ..store.layout import CATALOG
from ..store.objects import ObjectInfo, ObjectStore
from .tables import HOLD_PEOPLE, keys_of_scores, named_files

# Columns that tell whose a row is, by table.
_COLUMNS = {
    "identity_outcomes": ("identity_key", "identity_id"),
    "identity_summary": ("identity_key",),
    "images": ("subject", "generate_key"),
    "image_metrics": ("generate_key", "score_key"),
}


@dataclass(frozen=True)
class Remains:
    """What was found of erased people.

    Args:
        people: those of whom files hold rows.
        unreadable: whether a file could not be read; a writer may be about to finish it.
    """

    people: frozenset[str]
    unreadable: bool


def people_in_files(
    store: ObjectStore,
    people: Mapping[str, Collection[str]],
    *,
    since: float = 0.0,
    unnamed: bool = False,
) -> Remains:
    """The erased people of whom a data file of a table holds rows.

    Not among them: the outcome report of an erased person, which every run writes as long as the manifest has a row;
    pictures and scores under a stage key that another person's outcome report names, for two ids with one photo share
    them.

    Args:
        store: any store.
        people: identity key -> stage keys of the person's pictures and scores.
        since: leave out files that were written before, in seconds since 1970.
        unnamed: look only at files that neither the newest version nor the one that readers see consists of.

    Raises:
        StoreError: the storage fails.
    """
    files_store = store_of_tables(store)
    if not people or files_store is None:
        return Remains(frozenset(), unreadable=False)
    whose = _owners(people, lambda: _claimed(store, people))
    found: set[str] = set()
    unreadable = False
    for name in HOLD_PEOPLE:
        files = [info for info in _data_files(files_store, name) if info.modified >= since]
        if unnamed and files:
            named = named_files(store, name)
            files = [info for info in files if info.name not in named]
        for info in files:
            columns = _read(files_store, info, _COLUMNS[name])
            if columns is None:
                unreadable = True
            else:
                found |= whose(name, columns)
    return Remains(frozenset(found), unreadable)


def damage(store: ObjectStore) -> list[tuple[str, str]]:
    """What readers of the tables would run into: where, and what is wrong."""
    found = []
    try:
        shown = read_catalog(store)[0].versions
    except DamagedRecord as error:
        shown, found = {}, [(CATALOG, str(error))]
    place, files_store = DeltaPlace(store), store_of_tables(store)
    if files_store is None:
        return found
    for name in NAMES:
        folder = folder_name(contract(name))
        for version in {shown.get(name), None}:
            try:
                named = place.read(name, data_files, version) or set()
            except StoreError as error:
                found.append((folder, str(error)))
                continue
            there = (
                {info.name.removeprefix(f"{folder}/") for info in files_store.list(f"{folder}/")}
                if named
                else set()
            )
            gone = sorted(named - there)
            if gone:
                found.append(
                    (folder, f"{len(gone)} files are gone, {gone[0]} among them; restore them from a backup")
                )
                break
    return found


def _owners(
    people: Mapping[str, Collection[str]], claimed: Callable[[], set[str]]
) -> Callable[[str, pa.Table], set[str]]:
    """A function that says which of the people own rows, given the columns of `_COLUMNS`."""
    by_stage_key: dict[str, set[str]] = {}
    for person, keys in people.items():
        for key in keys:
            by_stage_key.setdefault(key, set()).add(person)
    known: list[set[str]] = []  # claimed keys, read when a stage key is met for the first time

    def by_key(values: set[str]) -> set[str]:
        hits = values & by_stage_key.keys()
        if hits and not known:
            known.append(claimed())
        return {person for key in hits - (known[0] if known else set()) for person in by_stage_key[key]}

    def whose(name: str, rows: pa.Table) -> set[str]:
        if name == "identity_outcomes":
            rows = rows.filter(pc.not_equal(rows["identity_id"], rows["identity_key"]))
        values = {column: set(pc.unique(rows[column]).to_pylist()) for column in rows.column_names}
        if name in ("identity_outcomes", "identity_summary"):
            return values["identity_key"] & people.keys()
        if name == "images":
            return (values["subject"] & people.keys()) | by_key(values["generate_key"])
        return by_key(values["generate_key"] | values["score_key"])

    return whose


def _claimed(store: ObjectStore, people: Collection[str]) -> set[str]:
    """The stage keys that the outcome reports of other people name."""

    def keys(delta: DeltaTable) -> set[str]:
        rows = delta.to_pyarrow_dataset().to_table(
            columns=["generate_key", "stage_results"], filter=~pc.field("identity_key").isin(list(people))
        )
        scores = {key for row in rows.to_pylist() for key in keys_of_scores(row)}
        return scores | set(rows["generate_key"].to_pylist())

    return DeltaPlace(store).read("identity_outcomes", keys) or set()


def _data_files(store: ObjectStore, name: str) -> Iterator[ObjectInfo]:
    folder = folder_name(contract(name))
    return (info for info in store.list(f"{folder}/") if "/_delta_log/" not in info.name)


def _read(store: ObjectStore, info: ObjectInfo, columns: Collection[str]) -> pa.Table | None:
    """Columns of a data file as plain strings; empty if it is gone by now, None if it cannot be read."""
    try:
        rows = pq.read_table(io.BytesIO(store.get(info.name)), columns=list(columns))
        return pa.table({column: rows[column].cast(pa.string()) for column in columns})
    except ObjectMissing:
        return pa.table({column: pa.array([], pa.string()) for column in columns})
    except (OSError, pa.ArrowException, KeyError):
        return None
