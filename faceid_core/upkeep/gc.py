"""Garbage collection: marks what results, pins and tables need, and sweeps the rest once it is old enough."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from faceid_core.errors import ConfigurationError, DamagedRecord, ObjectMissing
from faceid_core.store import layout
from faceid_core.store.cache import StageCache
from faceid_core.store.lease import abandoned_leases, running_runs
from faceid_core.store.lease_record import LeaseWatch
from faceid_core.store.manifest import Manifest
from faceid_core.store.objects import ObjectInfo, ObjectStore
from faceid_core.store.records import RequestRecord, StatusRecord, read_record
from faceid_core.upkeep.scopes import Scope, all_scopes, read_scope
from faceid_core.upkeep.verify import named_digests

GRACE_SECONDS = 7 * 86_400.0
# What a running process may have written and not linked yet (a blob, half a file, rows before their commit) is younger.
# A lease does not tell: one that was not renewed in time counts as dead, and its process may still go on.
SHORTEST_GRACE_SECONDS = 3600.0
_THREADS = 8
_PAGE = re.compile(r"identities/[0-9a-f]{32}/reports/[A-Za-z0-9._-]+\.html")


@dataclass
class Collected:
    """What a collection found; with `delete` also what it removed.

    Attributes:
        counts: kind of garbage -> objects.
        bytes: kind of garbage -> bytes.
        kept_young: garbage that is within the grace period.
        scopes_in_use: scopes left alone because a running run works on them.
        scopes_in_doubt: scopes that were left alone because a manifest there cannot be read, or because they hold
            symbolic links (`faceid verify`).
        damaged: records that cannot be understood, and what was left alone because of it.
        grace: the grace period in seconds that was kept, which may be longer than the one asked for.
        deleted: whether the garbage was removed.
        compacted: small files of the tables that were merged.
    """

    counts: Counter = field(default_factory=Counter)
    bytes: Counter = field(default_factory=Counter)
    kept_young: int = 0
    scopes_in_use: int = 0
    scopes_in_doubt: int = 0
    damaged: list[str] = field(default_factory=list)
    grace: float = GRACE_SECONDS
    deleted: bool = False
    compacted: int = 0

    @property
    def objects(self) -> int:
        """All garbage."""
        return sum(self.counts.values())

    def add(self, other: Collected) -> None:
        """Take in what was found elsewhere."""
        self.counts += other.counts
        self.bytes += other.bytes
        self.kept_young += other.kept_young
        self.scopes_in_use += other.scopes_in_use
        self.scopes_in_doubt += other.scopes_in_doubt


def collect(
    store: ObjectStore,
    grace: float = GRACE_SECONDS,
    delete: bool = False,
    *,
    unused_days: float | None = None,
    now: float | None = None,
    report: Callable[[str], None] | None = None,
) -> Collected:
    """Find, and with `delete` remove, what nothing refers to and what is older than `grace` seconds.

    Marked are the outputs and inputs of every result that may stay, the pages that a run names, and the
    table files of the catalog's versions. Safe beside a running run: its people's scopes and `common` are left
    alone, and so is everything young.

    Args:
        store: any store.
        grace: seconds since an object was written in which it is never swept; SHORTEST_GRACE_SECONDS at least.
        delete: False only reports.
        unused_days: also let go of people's results that no run of so many days used and no pin keeps; None keeps
            all results. What belongs to no identity (`common`) always stays.
        now: the moment from which ages count, in seconds since 1970; None for the present.
        report: told what is going on, in words without ids.

    Raises:
        StoreError: the store fails; what was not removed is found again next time.
    """
    report = report or (lambda _: None)
    watch = LeaseWatch()
    now = time.time() if now is None else now
    grace = grace if grace > SHORTEST_GRACE_SECONDS else SHORTEST_GRACE_SECONDS  # also where it is no number
    found = Collected(deleted=delete, grace=grace)
    marks = _Marks.read(store, unused_days, now, watch, report, found.damaged)
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in pool.map(
            lambda scope: _sweep_scope(store, scope, marks, grace, delete, watch), all_scopes(store)
        ):
            found.add(part)
    report(f"people's and common results: {found.objects} objects")
    _sweep_run_leases(store, watch, marks.now - grace, delete, found)
    count, size = store.sweep_unfinished(grace - (now - time.time()), delete=delete)
    _count(found, "unfinished write", count, size)
    _sweep_tables(store, grace, delete, found)
    report(f"unfinished writes and table files: {found.objects} objects in all")
    return found


@dataclass(frozen=True)
class _Marks:
    """What runs hold on to.

    Attributes:
        now: when the collection began.
        in_use: identity keys of a running run; None if a run is running whose identities are unknown.
        used: stage keys of runs that keep their results; None if all results stay.
        pages: names of the pages that a kept run's index or record of pages names.
    """

    now: float
    in_use: frozenset[str] | None
    used: frozenset[str] | None
    pages: frozenset[str]

    @classmethod
    def read(
        cls,
        store: ObjectStore,
        unused_days: float | None,
        now: float,
        watch: LeaseWatch,
        report: Callable[[str], None],
        damaged: list[str],
    ) -> _Marks:
        running = running_runs(store, watch, report=report)
        in_use = _people_of(store, running)
        oldest = None if unused_days is None else now - unused_days * 86_400
        used: set[str] | None = None if unused_days is None else set()
        pages: set[str] = set()
        runs: dict[str, dict[str, ObjectInfo]] = {}
        for info in store.list("runs/"):
            _, run_id, *rest = info.name.split("/")
            runs.setdefault(run_id, {})["/".join(rest)] = info
        kept = _promoted(store, damaged)
        for run_id, objects in runs.items():
            newest = max(info.modified for info in objects.values())
            is_kept = kept is None or run_id in kept or "pin.json" in objects or run_id in running
            if oldest is not None and newest < oldest and not is_kept:
                continue
            # An index lists some thousand people, and is ten times as long as the record, which lists all.
            recorded = (_PAGE.findall(_text(store, objects.get(name))) for name in ("pages.json", "index.html"))
            pages |= set(next(filter(None, recorded), ()))
            if used is not None and "status.json" in objects:
                try:
                    used |= _stage_keys(store, objects["status.json"].name)
                except DamagedRecord as error:
                    damaged.append(f"{error}; unused results stay: which ones that run used is unknown")
                    used = None
        return cls(now, in_use, None if used is None else frozenset(used), frozenset(pages))

    def is_in_use(self, scope: str) -> bool:
        """Whether a running run may be working in a scope."""
        return _is_in_use(scope, self.in_use)


def _promoted(store: ObjectStore, damaged: list[str]) -> set[str] | None:
    """Runs that downstream readers use, kept as pinned ones are; None if they are unknown, so that every run is kept."""
    from faceid_core.tables.promoted import read_promoted  # as in `_sweep_tables`

    try:
        return set(read_promoted(store).values())
    except DamagedRecord as error:
        damaged.append(f"{error}; unused results stay: which runs are promoted is unknown")
        return None


def _people_of(store: ObjectStore, running: Iterable[str]) -> frozenset[str] | None:
    people: set[str] = set()
    for run_id in running:
        try:
            asked = read_record(store, layout.run_object(run_id, "request.json"), RequestRecord, "")
        except (ObjectMissing, ConfigurationError, DamagedRecord):
            return None  # it is only just beginning, or its identities are unknown
        if asked.identities is None:
            return None
        people.update(asked.identities)
    return frozenset(people)


def _text(store: ObjectStore, info: ObjectInfo | None) -> str:
    try:
        return store.get(info.name).decode(errors="replace") if info else ""
    except ObjectMissing:
        return ""


def _stage_keys(store: ObjectStore, name: str) -> set[str]:
    """The results that a run used, by its status. Raises DamagedRecord."""
    try:
        record = read_record(store, name, StatusRecord, "faceid pin keeps its results")
    except ObjectMissing:
        return set()
    return {key for person in record.people for key in person.stage_keys.values()}


def _sweep_scope(
    store: ObjectStore, scope: Scope, marks: _Marks, grace: float, delete: bool, watch: LeaseWatch
) -> Collected:
    found = Collected()
    if marks.is_in_use(scope.name):
        found.scopes_in_use = 1
        return found
    if scope.links:
        found.scopes_in_doubt = 1
        return found
    unused, live, doubt = _sort_manifests(store, scope, marks)
    sweep = _Sweep(store, marks.now - grace, found)
    sweep.consider("unused result", (scope.manifests[m.stage, m.stage_key] for m in unused))
    # The blobs of a result that is too young to go stay with it.
    live += [m for m in unused if not sweep.is_old(scope.manifests[m.stage, m.stage_key])]
    if doubt:
        found.scopes_in_doubt = 1
    else:
        named = named_digests(live)
        sweep.consider("orphaned blob", (info for digest, info in scope.blobs.items() if digest not in named))
    sweep.consider("quarantined manifest", scope.quarantine)
    sweep.consider("abandoned checkpoint", scope.checkpoints)
    sweep.consider("abandoned lease", scope.leases)
    sweep.consider("unlinked page", (info for info in scope.reports if _page_of(info) not in marks.pages))
    if delete and sweep.garbage and not _busy_meanwhile(store, scope.name, watch):
        sweep.delete(scope.name)
    return found


def _page_of(info: ObjectInfo) -> str:
    """The page to which an object of a person's reports belongs: itself, or the one that its pictures stand beside."""
    return f"{info.name.removesuffix('.jpg')}.html" if info.name.endswith(".jpg") else info.name


def _sort_manifests(
    store: ObjectStore, scope: Scope, marks: _Marks
) -> tuple[list[Manifest], list[Manifest], bool]:
    """Results to let go, results to keep, and whether one cannot be read."""
    unused, live, doubt = [], [], False
    cache = StageCache(store, scope.name)
    for stage, key in scope.manifests:
        manifest = cache.read_manifest(stage, key, read_only=True)
        if manifest is None:
            doubt = True
        elif marks.used is None or key in marks.used or scope.name == layout.COMMON:
            live.append(manifest)
        else:
            unused.append(manifest)
    return unused, live, doubt


class _Sweep:
    """The garbage of one scope."""

    def __init__(self, store: ObjectStore, oldest: float, found: Collected):
        self._store, self._oldest, self._found = store, oldest, found
        self.garbage: list[tuple[str, ObjectInfo]] = []

    def is_old(self, info: ObjectInfo) -> bool:
        """Whether the grace period of an object is over."""
        return info.modified <= self._oldest

    def consider(self, kind: str, objects: Iterable[ObjectInfo]) -> None:
        """Count what is old enough as garbage, and what is not as kept."""
        for info in objects:
            if self.is_old(info):
                self.garbage.append((kind, info))
                _count(self._found, kind, 1, info.size)
            else:
                self._found.kept_young += 1

    def delete(self, scope: str) -> None:
        """Remove the garbage, manifests before blobs; a blob that a new result names meanwhile stays."""
        cache, again = StageCache(self._store, scope), read_scope(self._store, scope)
        going = {info.name for _, info in self.garbage}
        staying = [
            cache.read_manifest(stage, key, read_only=True)
            for (stage, key), info in again.manifests.items()
            if info.name not in going
        ]
        named = named_digests([manifest for manifest in staying if manifest is not None])
        for kind, info in sorted(self.garbage, key=lambda row: row[0] != "unused result"):
            if kind == "orphaned blob" and info.name.rpartition("/")[2] in named:
                _count(self._found, kind, -1, -info.size)
                continue
            self._store.delete(info.name)


def _busy_meanwhile(store: ObjectStore, scope: str, watch: LeaseWatch) -> bool:
    """Whether a run has begun on this scope since the marks were made; one in doubt counts."""
    return _is_in_use(scope, _people_of(store, running_runs(store, watch, wait=False)))


def _is_in_use(scope: str, people: Collection[str] | None) -> bool:
    """Whether runs of these people may be working in a scope; None: of whom is in doubt."""
    return people is None or (bool(people) and (scope == layout.COMMON or scope.rpartition("/")[2] in people))


def _sweep_run_leases(
    store: ObjectStore, watch: LeaseWatch, oldest: float, delete: bool, found: Collected
) -> None:
    """Leases that dead runs left under names of their own."""
    for info in abandoned_leases(store, watch):
        if info.modified <= oldest:
            _count(found, "abandoned lease", 1, info.size)
            if delete:
                store.delete(info.name)


def _sweep_tables(store: ObjectStore, grace: float, delete: bool, found: Collected) -> None:
    # The tables import the store's room, not the other way round, and the Delta library takes a second to import.
    from faceid_core.tables.storage import store_of_tables
    from faceid_core.upkeep.tables import compact, vacuum

    files = store_of_tables(store)
    sizes = {info.name: info.size for info in files.list("tables/")} if files else {}
    try:
        if delete:  # the files that it replaces are kept for the grace period, for who reads them
            found.compacted = compact(store)
        for name in vacuum(store, grace, delete=delete):
            _count(found, "table file", 1, sizes.get(name, 0))
    except DamagedRecord as error:
        found.damaged.append(f"{error}; the tables' files stay")


def _count(found: Collected, kind: str, objects: int, size: int) -> None:
    if objects:
        found.counts[kind] += objects
        found.bytes[kind] += size
