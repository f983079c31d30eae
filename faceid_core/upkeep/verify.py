"""Checks a whole store: every manifest by its digests, every blob by its name; and repairs by setting aside."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import TypeVar

from faceid_core.errors import DamagedRecord, LinkInStore, ObjectMissing, StoreError
from faceid_core.store import layout
from faceid_core.store.cache import StageCache, is_erased
from faceid_core.store.keys import sha256_hex
from faceid_core.store.manifest import Manifest
from faceid_core.store.objects import ObjectInfo, ObjectStore
from faceid_core.store.records import PagesRecord, RequestRecord, StatusRecord, read_record
from faceid_core.store.s3_address import unfit_for_tables
from faceid_core.store.secret import is_identity_key
from faceid_core.store.tombstone import Receipt, read_receipt
from faceid_core.upkeep.scopes import Scope, all_scopes

_Listed = TypeVar("_Listed")

THREADS = 8
_RUN_RECORDS = {"request.json": RequestRecord, "status.json": StatusRecord, "pages.json": PagesRecord}
# A blob that is younger may belong to a result whose manifest is about to be written.
_ORPHAN_AGE_SECONDS = 3600.0
DAMAGED_MANIFEST, DAMAGED_BLOB, MISSING_BLOB = "damaged manifest", "damaged blob", "missing blob"
MISSING_PHOTO, STRANGE, ERASED = "missing photo", "strange object", "remains of an erased person"
LINK = "symbolic link"
MISPLACED = "misplaced tables"
_PROMOTE = "restore runs/, or promote another run: faceid promote RUN"
DAMAGED_RECORD, DAMAGED_TABLE = "damaged record", "damaged table"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what, in which scope, with which stage and key where there is one, and the details."""

    kind: str
    scope: str
    detail: str
    stage: str = ""
    stage_key: str = ""

    def __str__(self) -> str:
        what = f" {self.stage} ({self.stage_key[:12]})" if self.stage else ""
        return f"{self.kind}: {self.scope}{what}: {self.detail}"


@dataclass
class Verified:
    """What a check found.

    Attributes:
        manifests, blobs: how many were read. bytes: of the blobs.
        findings: what is wrong. orphans: blobs that no manifest names, with their bytes; `faceid gc` removes them.
        repaired: manifests set aside and damaged blobs removed, so that the next run makes them again.
    """

    manifests: int = 0
    blobs: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    orphans: int = 0
    orphan_bytes: int = 0
    repaired: int = 0

    @property
    def sound(self) -> bool:
        """Whether every result can be read."""
        return not self.findings

    def counts(self) -> dict[str, int]:
        """Findings by kind."""
        return dict(Counter(finding.kind for finding in self.findings))

    def add(self, other: Verified) -> None:
        """Take in what was found elsewhere."""
        for name in ("manifests", "blobs", "bytes", "orphans", "orphan_bytes", "repaired"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.findings += other.findings


def verify(
    store: ObjectStore,
    *,
    repair: bool = False,
    threads: int = THREADS,
    progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """Read every manifest, blob and record of a store, many at a time, and see that its tables are whole.

    Args:
        store: any store.
        repair: set a manifest aside whose outputs cannot be read, and remove damaged blobs: the next run makes them
            again. Photos are put back by the run that needs them. A scope with symbolic links stays as it is.
        threads: how many scopes are read at the same time.
        progress: called with scopes done and scopes in all.

    Raises:
        StoreError: the store itself fails.
    """
    scopes, found, lock = [], Verified(), Lock()
    for link in store.links():
        found.findings.append(
            Finding(LINK, link, "it is not followed; put the real folder or file in its place")
        )
    scopes += _not_behind_links(all_scopes(store))

    def one(scope: Scope) -> None:
        result = _Check(store, scope, repair).run()
        with lock:
            done.append(scope.name)
            found.add(result)
            if progress:
                progress(len(done), len(scopes))

    done: list[str] = []
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, scopes))
        found.findings += [
            finding for each in pool.map(partial(_record, store), _records(store)) for finding in each
        ]
    with suppress(LinkInStore):  # nothing reads tables with a link among them, or in their catalog's place
        found.findings += _tables(store)
    if fault := unfit_for_tables(store):
        found.findings.append(Finding(MISPLACED, "tables", fault))
    found.findings.sort(key=lambda finding: (finding.scope, finding.kind, finding.stage, finding.stage_key))
    return found


class _Check:
    """The check of one scope."""

    def __init__(self, store: ObjectStore, scope: Scope, repair: bool):
        # What lies behind a link is not lost: a result must not be set aside for it.
        self._store, self._scope, self._repair = store, scope, repair and not scope.links
        self._cache = StageCache(store, scope.name)
        self._found = Verified()
        self._wrong: dict[str, str] = {}  # digest -> what is wrong with the blob
        self._sizes: dict[str, int] = {}

    def run(self) -> Verified:
        for digest, info in self._scope.blobs.items():
            self._blob(digest, info)
        manifests = [self._manifest(*key) for key in self._scope.manifests]
        readable = [manifest for manifest in manifests if manifest is not None]
        for manifest in readable:
            self._outputs(manifest)
        self._photos(readable)
        self._orphans(readable, complete=len(readable) == len(manifests))
        for digest in self._wrong:
            if self._repair:
                self._store.delete(layout.blob(self._scope.name, digest))
                self._found.repaired += 1
        for info in self._scope.strange:
            self._say(STRANGE, f"{info.name} is nothing that faceid writes; remove it")
        self._erased()
        return self._found

    def _blob(self, digest: str, info: ObjectInfo) -> None:
        try:
            data = self._store.get(info.name)
        except ObjectMissing:  # removed since it was listed; who needs it says so below
            return
        self._found.blobs += 1
        self._found.bytes += len(data)
        self._sizes[digest] = len(data)
        if sha256_hex(data) != digest:
            self._wrong[digest] = f"blob {digest[:12]} is damaged ({len(data)} bytes)"

    def _manifest(self, stage: str, key: str) -> Manifest | None:
        try:
            data = self._store.get(layout.stage_manifest(self._scope.name, stage, key))
        except ObjectMissing:
            return None
        self._found.manifests += 1
        try:
            return Manifest.from_bytes(data, stage=stage, stage_key=key)
        except ValueError as error:
            self._say(DAMAGED_MANIFEST, str(error), stage, key)
            if self._repair and self._cache.read_manifest(stage, key) is None:
                self._found.repaired += 1
            return None

    def _outputs(self, manifest: Manifest) -> None:
        before = len(self._found.findings)
        for name, output in manifest.outputs.items():
            where = manifest.stage, manifest.stage_key
            if output.digest in self._wrong:
                self._say(DAMAGED_BLOB, f"{name}: {self._wrong[output.digest]}", *where)
            elif output.digest not in self._sizes and not self._appeared(output.digest):
                self._say(MISSING_BLOB, f"{name}: blob {output.digest[:12]} is gone", *where)
            elif self._sizes[output.digest] != output.size:
                told = f"{name}: {self._sizes[output.digest]} bytes where the manifest says {output.size}"
                self._say(DAMAGED_BLOB, told, *where)
        if self._repair and len(self._found.findings) > before:
            self._cache.quarantine(manifest, str(self._found.findings[-1]))
            self._found.repaired += 1

    def _appeared(self, digest: str) -> bool:
        """Whether a blob was written since the scope was listed, as beside a running run."""
        try:
            data = self._store.get(layout.blob(self._scope.name, digest))
        except (ObjectMissing, LinkInStore):
            return False
        self._sizes[digest] = len(data)
        return sha256_hex(data) == digest

    def _photos(self, manifests: list[Manifest]) -> None:
        for manifest in manifests:
            photo = manifest.content["preimage"].get("inputs", {}).get("photo")
            if manifest.stage != "detect" or photo is None:
                continue
            if photo in self._wrong:
                self._say(DAMAGED_BLOB, f"photo: {self._wrong[photo]}", "detect", manifest.stage_key)
            elif photo not in self._sizes and not self._appeared(photo):
                self._say(MISSING_PHOTO, "a run puts it back when it needs it", "detect", manifest.stage_key)

    def _orphans(self, manifests: list[Manifest], *, complete: bool) -> None:
        """Blobs that nothing names; where a manifest cannot be read, this is unknown."""
        named = named_digests(manifests)
        now = time.time()
        for digest, info in self._scope.blobs.items() if complete else ():
            if digest not in named and now - info.modified > _ORPHAN_AGE_SECONDS:
                self._found.orphans += 1
                self._found.orphan_bytes += info.size
                if digest in self._wrong:
                    self._say(DAMAGED_BLOB, f"{self._wrong[digest]}, and nothing needs it")

    def _erased(self) -> None:
        key = layout.identity_of_scope(self._scope.name)
        # Listed again: an erasure that is going on has removed much of it by now.
        try:
            remains = (
                key
                and is_erased(self._store, key)
                and any(True for _ in self._store.list(f"{self._scope.name}/"))
            )
        except LinkInStore:  # among the findings
            return
        if remains:
            self._say(ERASED, "objects stand under a tombstone; run the erasure again: faceid gc --delete")

    def _say(self, kind: str, detail: str, stage: str = "", key: str = "") -> None:
        self._found.findings.append(Finding(kind, self._scope.name, detail, stage, key))


def _records(store: ObjectStore) -> list[str]:
    """The records that are read outside the scopes."""
    runs = [info.name for info in _not_behind_links(store.list("runs/"))]
    tombstones = [info.name for info in _not_behind_links(store.list(layout.TOMBSTONES))]
    promoted = [info.name for info in _not_behind_links(store.list(layout.PROMOTED))]
    return [*(name for name in runs if name.split("/", 2)[-1] in _RUN_RECORDS), *tombstones, *promoted]


def _not_behind_links(listed: Iterable[_Listed]) -> Iterator[_Listed]:
    """What a listing finds; a symbolic link, which ends it, is among the findings already."""
    with suppress(LinkInStore):
        yield from listed


def _record(store: ObjectStore, name: str) -> list[Finding]:
    """What is wrong with one of them, if anything is."""
    key = layout.identity_of_tombstone(name)
    try:
        if name == layout.PROMOTED:
            return _promoted(store)
        if not name.startswith(layout.TOMBSTONES):
            read_record(
                store, name, _RUN_RECORDS[name.rpartition("/")[2]], "restore it, or remove the run's record"
            )
        elif not is_identity_key(key):
            return [Finding(STRANGE, layout.TOMBSTONES.rstrip("/"), f"{name} is no person's; remove it")]
        else:
            Receipt.checked(store.get(name), key)
    except (ObjectMissing, LinkInStore):
        pass
    except DamagedRecord as error:
        return [Finding(DAMAGED_RECORD, name.rpartition("/")[0], str(error))]
    except ValueError as error:
        told = f"{name}: {error}; the person stays refused, and faceid gc --delete erases and records again"
        return [Finding(DAMAGED_RECORD, layout.TOMBSTONES.rstrip("/"), told)]
    return []


def _promoted(store: ObjectStore) -> list[Finding]:
    """Promoted runs whose record is gone. Raises DamagedRecord."""
    from faceid_core.tables.promoted import read_promoted  # as in `_tables`

    return [
        Finding(DAMAGED_RECORD, layout.PROMOTED, f"run {run_id}, current for {name!r}, has no record; {_PROMOTE}")
        for name, run_id in read_promoted(store).items()
        if store.head(layout.run_object(run_id, "request.json")) is None
    ]


def _tables(store: ObjectStore) -> list[Finding]:
    """What the tables lack, and what they hold of erased people."""
    # The tables import the store's room, not the other way round, and the Delta library takes a second to import.
    if not any(True for _ in store.list("tables/")) and store.head(layout.CATALOG) is None:
        return []
    from .remains import damage, people_in_files

    found = [Finding(DAMAGED_TABLE, where, detail) for where, detail in damage(store)]
    stones = _not_behind_links(store.list(layout.TOMBSTONES))
    keys = {layout.identity_of_tombstone(info.name) for info in stones}
    people = {key: read_receipt(store, key).stage_keys for key in keys if is_identity_key(key)}
    try:
        left = people_in_files(store, people).people
    except StoreError as error:  # the catalog or a table's log, which is told above
        return found or [Finding(DAMAGED_TABLE, "tables", str(error))]
    told = "files of the tables hold rows of a person under a tombstone; run the erasure again: faceid gc --delete"
    return found + [Finding(ERASED, layout.identity_scope(key), told) for key in sorted(left)]


def named_digests(manifests: list[Manifest]) -> set[str]:
    """The blobs that results need: their outputs, and what they were made from."""
    named = {output.digest for manifest in manifests for output in manifest.outputs.values()}
    for manifest in manifests:
        named |= set(manifest.content["preimage"].get("inputs", {}).values())
    return named
