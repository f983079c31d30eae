"""The catalog: one small object that names the version of every table, replaced once per run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from data_contracts import NAMES, contract

from ..errors import Conflict, DamagedRecord, ObjectMissing, StoreError
from ..store.keys import canonical_json
from ..store.layout import CATALOG
from ..store.objects import ObjectStore
from ..store.records import CatalogRecord, parse_record
from .storage import folder_name
from .write import DeltaPlace

FORMAT = "faceid-catalog/1"
_ATTEMPTS = 50


@dataclass(frozen=True)
class Catalog:
    """What readers see.

    Attributes:
        versions: table -> Delta version; a table that was never published is absent.
        sequence: how often the catalog changed.
        run_id: the run that changed it last.
        published_at: when, UTC, ISO 8601.
    """

    versions: Mapping[str, int] = field(default_factory=dict)
    sequence: int = 0
    run_id: str = ""
    published_at: str = ""

    def to_bytes(self) -> bytes:
        """The catalog as it is stored."""
        rows = {
            name: {"folder": folder_name(contract(name)), "version": v} for name, v in self.versions.items()
        }
        return canonical_json(
            {
                "format": FORMAT,
                "tables": rows,
                "sequence": self.sequence,
                "run_id": self.run_id,
                "published_at": self.published_at,
            }
        )


def read_catalog(store: ObjectStore) -> tuple[Catalog, str | None]:
    """The catalog and its etag; an empty one and None before the first run.

    Raises:
        DamagedRecord: if it cannot be understood.
    """
    try:
        data, etag = store.get_with_etag(CATALOG)
    except ObjectMissing:
        return Catalog(), None
    advice = "delete it and publish a run again"
    record = parse_record(data, CatalogRecord, name=CATALOG, url=store.url, advice=advice)
    if record.format != FORMAT:
        raise DamagedRecord(CATALOG, store.url, f"its format is {record.format[:40]!r}", advice)
    # A table of another major version is another table, which this version of faceid cannot read.
    versions = {
        name: row.version
        for name, row in record.tables.items()
        if name in NAMES and row.folder == folder_name(contract(name))
    }
    return Catalog(versions, record.sequence, record.run_id, record.published_at), etag


def advance(store: ObjectStore, place: DeltaPlace, run_id: str) -> Catalog:
    """Show readers the latest version of every table, in one step.

    `runs` is looked at first: a run's row there is written last, so a run that it shows is whole elsewhere.

    Returns:
        The catalog in force; untouched if no table changed.

    Raises:
        StoreError: if the store fails.
    """
    for _ in range(_ATTEMPTS):
        current, etag = read_catalog(store)
        latest = {name: place.read(name, lambda delta: delta.version()) for name in NAMES}
        versions = {name: version for name, version in latest.items() if version is not None}
        if any(versions.get(name, -1) < version for name, version in current.versions.items()):
            raise StoreError(
                f"a table in {store.url} is older than its catalog says; restore the tables folder"
            )
        if versions == current.versions:
            return current
        wanted = Catalog(
            versions, current.sequence + 1, run_id, datetime.now(UTC).isoformat(timespec="seconds")
        )
        try:
            store.replace_if_match(CATALOG, wanted.to_bytes(), etag)
            return wanted
        except Conflict:
            continue
    raise StoreError(f"{CATALOG} in {store.url} keeps changing; publish run {run_id} again")
