"""Upkeep of the tables: files that no version needs any more, and the rows of a person who is erased."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial, reduce
from math import ceil
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError

from data_contracts import NAMES, contract
from faceid_core.errors import StoreError
from faceid_core.stages.work import is_score
from faceid_core.store.keys import is_digest
from faceid_core.store.objects import ObjectStore
from faceid_core.store.secret import is_identity_key
from faceid_core.tables.catalog import advance, read_catalog
from faceid_core.tables.storage import folder_name, store_of_tables
from faceid_core.tables.write import DeltaPlace, data_files

_ATTEMPTS = 20
COMPACTED_BYTES = 128 << 20
_KEYS_IN_A_PREDICATE = 500
# Outcomes last: they say which keys the other tables hold of a person, should this be interrupted.
HOLD_PEOPLE = ("image_metrics", "images", "identity_summary", "identity_outcomes")
Values = tuple[
    tuple[str, ...], Sequence[str], str
]  # columns, values of which one of them has one, and a condition
# An erased person who is in the manifest still has an outcome row in every run, with the key in place of the id.
_NOT_AN_OUTCOME_OF_THE_ERASED = "identity_id <> identity_key"


def vacuum(store: ObjectStore, grace: float, *, delete: bool) -> list[str]:
    """Table files that neither the catalog's version nor the newest one needs, older than `grace` seconds.

    Args:
        store: any store.
        grace: seconds, rounded up to whole hours.
        delete: remove them; else only say which they are.

    Returns:
        Their names in the store.

    Raises:
        StoreError: the storage fails.
    """
    return [
        name
        for table in NAMES
        for name in _vacuum(store, table, ceil(grace / 3600), delete=delete, full=True)
    ]


def compact(store: ObjectStore) -> int:
    """Merge the tables' small files into files of about 128 MB, and show readers the result; how many files went.

    Raises:
        StoreError: the storage fails; doing it again completes it.
    """
    place = DeltaPlace(store)
    count = sum(place.compact(name, target_bytes=COMPACTED_BYTES) for name in NAMES)
    if count:
        _advance(store, place)
    return count


def stage_keys_of(store: ObjectStore, identity_key: str) -> set[str]:
    """The stage keys under which the tables hold a person's pictures and scores. Raises StoreError."""
    _require_key(identity_key)
    place, found = DeltaPlace(store), set()
    for name, column in (("identity_outcomes", "identity_key"), ("images", "subject")):
        rows = place.read(name, lambda delta, column=column: _rows(delta, column, identity_key)) or []
        for row in rows:
            found |= {row.get("generate_key"), *keys_of_scores(row)}
    return {key for key in found if is_digest(key)}


def keys_of_scores(row: Mapping) -> set[str]:
    """The stage keys of the scores that a row of `identity_outcomes` names."""
    results = row.get("stage_results") or ()
    return {result["stage_key"] for result in results if is_score(result["stage"])}


def erase_rows(
    store: ObjectStore,
    identity_key: str,
    stage_keys: Iterable[str],
    *,
    unnamed_age: float | None,
    versions: bool = True,
) -> dict[str, int]:
    """Remove a person's rows from every table, and the files and log entries that held them.

    Readers see the tables without them before the old files go, so that no reader meets a hole.

    Args:
        store: any store.
        identity_key: whose rows.
        stage_keys: of the person's results, known from elsewhere; those that the tables know are added.
        unnamed_age: files that no version names go as well when they were written so many seconds ago: a writer that
            died left them. None while a run is going on, whose files they may be.
        versions: also remove what the bucket keeps of replaced and deleted files, which a run may not do.

    Returns:
        table -> rows removed.

    Raises:
        StoreError: the storage fails; doing it again completes it.
    """
    files = store_of_tables(store)
    if files is None:
        return {}
    place = DeltaPlace(store)
    keys = sorted({key for key in stage_keys if is_digest(key)} | stage_keys_of(store, identity_key))
    removed = {name: _delete(place, name, _of_a_person(name, identity_key, keys)) for name in HOLD_PEOPLE}
    _advance(store, place)
    for name in NAMES:
        _vacuum(store, name, 0, delete=True, full=False)
        if unnamed_age is not None:
            _sweep_unnamed(store, name, unnamed_age)
    # The log tells the least and the greatest value of each column of each file, ids among them, and our predicates.
    checkpoints = {name: place.read(name, _checkpoint) for name in NAMES}
    _advance(store, place)
    for name, version in checkpoints.items():
        _forget_log(files, name, version)
        if unnamed_age is not None:
            for staged in _staged(files, f"{folder_name(contract(name))}/_delta_log/", unnamed_age):
                files.delete(staged)
    if versions:
        files.purge_old_versions("tables/")
    return {name: count for name, count in removed.items() if count}


def people_of_outcomes(store: ObjectStore) -> set[str]:
    """The keys of people of whom `identity_outcomes` has a row with their id. Raises StoreError."""

    def keys(delta: DeltaTable) -> set[str]:
        rows = delta.to_pyarrow_dataset().to_table(
            columns=["identity_key"], filter=pc.field("identity_id") != pc.field("identity_key")
        )
        return set(pc.unique(rows["identity_key"]).to_pylist())

    return DeltaPlace(store).read("identity_outcomes", keys) or set()


def _rows(delta: DeltaTable, column: str, identity_key: str) -> list[dict]:
    known = [
        name for name in ("generate_key", "stage_results") if name in delta.to_pyarrow_dataset().schema.names
    ]
    return (
        delta.to_pyarrow_dataset()
        .to_table(columns=known, filter=pc.field(column) == identity_key)
        .to_pylist()
    )


def _of_a_person(name: str, identity_key: str, keys: Sequence[str]) -> list[Values]:
    """Which rows of a table are a person's: whatever one of these finds."""
    if name == "identity_outcomes":
        return [(("identity_key",), [identity_key], _NOT_AN_OUTCOME_OF_THE_ERASED)]
    if name == "identity_summary":
        return [(("identity_key",), [identity_key], "")]
    cuts = [keys[start : start + _KEYS_IN_A_PREDICATE] for start in range(0, len(keys), _KEYS_IN_A_PREDICATE)]
    if name == "images":
        return [(("subject",), [identity_key], ""), *((("generate_key",), cut, "") for cut in cuts)]
    return [(("generate_key", "score_key"), cut, "") for cut in cuts]


def _delete(place: DeltaPlace, name: str, wanted: Sequence[Values]) -> int:
    """Remove rows until a look finds none: a commit that was held up while another process cut the log is no proof."""
    removed = 0
    for columns, values, condition in wanted:
        step = partial(_delete_rows, columns=columns, values=values, condition=condition)
        for _ in range(_ATTEMPTS):
            try:
                found = place.read(name, step) or 0
            except StoreError as error:
                if not isinstance(error.__cause__, CommitFailedError):
                    raise
                continue
            if found == 0:
                break
            removed += found
        else:
            raise StoreError(
                f"table {name} in {place.root} keeps changing; erase again when the run has ended"
            )
    return removed


def _delete_rows(delta: DeltaTable, columns: Sequence[str], values: Sequence[str], condition: str) -> int:
    """Remove the rows that have one of the values in one of the columns; how many there were."""
    sought, count = pa.array(values, pa.string()), 0
    more = ("identity_id", "identity_key") if condition else ()
    for batch in delta.to_pyarrow_dataset().to_batches(columns=list(dict.fromkeys((*columns, *more)))):
        hits = reduce(
            pc.or_, [pc.is_in(batch[column].cast(pa.string()), value_set=sought) for column in columns]
        )
        if condition:
            hits = pc.and_(hits, pc.not_equal(batch["identity_id"], batch["identity_key"]))
        count += pc.sum(hits).as_py() or 0
    if count:
        listed = ", ".join(f"'{value}'" for value in values)
        predicate = " OR ".join(f"{column} IN ({listed})" for column in columns)
        if condition:
            predicate = f"({predicate}) AND {condition}"
        # Not `delta.delete`: the files that it writes hold string views, on which pyarrow cannot filter.
        nothing = pa.schema(delta.schema().to_arrow()).empty_table()
        write_deltalake(delta, nothing, mode="overwrite", predicate=predicate)
    return count


def _advance(store: ObjectStore, place: DeltaPlace) -> None:
    for each in _with_catalog(store):
        advance(each, place, read_catalog(each)[0].run_id)


def _with_catalog(store: ObjectStore) -> list[ObjectStore]:
    """The stores whose catalog names versions of these tables: an address of earlier days shares another's."""
    files = store_of_tables(store)
    shared = files is not None and files is not store and read_catalog(files)[1] is not None
    return [store, files] if shared else [store]


def _shown(store: ObjectStore, name: str) -> set[int]:
    """The versions of a table that readers see."""
    found = {read_catalog(each)[0].versions.get(name) for each in _with_catalog(store)}
    return {version for version in found if version is not None}


def _vacuum(store: ObjectStore, name: str, hours: int, *, delete: bool, full: bool) -> list[str]:
    """Files that the newest and the catalog's version do without; `full`: those that no version names as well."""
    place, folder = DeltaPlace(store), folder_name(contract(name))
    objects = store_of_tables(store)
    if objects is None:
        return []

    def files(delta: DeltaTable) -> list[str]:
        kept = sorted({delta.version(), *_shown(store, name)})
        vacuum = partial(delta.vacuum, hours, enforce_retention_duration=False, full=full, keep_versions=kept)
        # Without a look first, a table with nothing to remove would get two empty commits.
        found = vacuum(dry_run=True)
        if delete and found and not full:
            vacuum(dry_run=False)
        return [f"{folder}/{unquote(file)}" for file in found]

    found = set(place.read(name, files) or ())
    if full:
        found |= _staged(objects, f"{folder}/", hours * 3600.0)
    if found:  # the log goes on to name what was removed earlier
        found &= {info.name for info in objects.list(f"{folder}/")}
    if delete and full:
        # Not by delta-rs, whose list is as old as its look: what was committed meanwhile stays.
        for file in found - named_files(store, name) if found else ():
            objects.delete(file)
    return sorted(found)


def _staged(objects: ObjectStore, prefix: str, age: float) -> set[str]:
    """Files that delta-rs had not finished writing `age` seconds ago; its own listing passes over them."""
    oldest = time.time() - age
    return {
        info.name
        for info in objects.list(prefix)
        if "#" in info.name.rpartition("/")[2] and info.modified <= oldest
    }


def named_files(store: ObjectStore, name: str) -> set[str]:
    """The data files, as objects of the store, of a table's newest version and of the one that readers see."""
    place, folder = DeltaPlace(store), folder_name(contract(name))
    versions = {None, *_shown(store, name)}
    found = (place.read(name, data_files, version) or () for version in versions)
    return {f"{folder}/{file}" for files in found for file in files}


def _sweep_unnamed(store: ObjectStore, name: str, age: float) -> None:
    """Remove data files older than `age` seconds that neither the newest nor the catalog's version names."""
    objects, oldest = store_of_tables(store), time.time() - age
    if objects is None:
        return
    old = [
        info.name
        for info in objects.list(f"{folder_name(contract(name))}/")
        if "/_delta_log/" not in info.name and info.modified <= oldest
    ]
    # After the listing: what was committed meanwhile is named.
    for file in set(old) - named_files(store, name) if old else ():
        objects.delete(file)


def _checkpoint(delta: DeltaTable) -> int:
    delta.create_checkpoint()
    return delta.version()


def _forget_log(store: ObjectStore, name: str, version: int | None) -> None:
    """Remove log entries and checkpoints that are older than a version."""
    if version is None:
        return
    for info in list(store.list(f"{folder_name(contract(name))}/_delta_log/")):
        number = info.name.rpartition("/")[2].partition(".")[0]
        if number.isdigit() and int(number) < version:
            store.delete(info.name)


def _require_key(identity_key: str) -> None:
    if not is_identity_key(identity_key):
        raise ValueError(f"{identity_key!r} is not an identity key of 32 hex digits")
