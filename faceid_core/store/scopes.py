"""A store's scopes, listed in parallel: for each what stands there, by kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby

from . import layout
from .keys import is_digest, is_stage_name
from .objects import ObjectInfo, ObjectStore
from .secret import is_identity_key

LIST_THREADS = 16
_HEX = "0123456789abcdef"


@dataclass
class Scope:
    """One scope as a listing sees it.

    Attributes:
        name: 'identities/<key>' or 'common'.
        manifests: (stage, stage key) -> object. blobs: digest -> object.
        journal, leases, quarantine, reports: objects of these folders. strange: everything that no faceid writes here.
    """

    name: str
    manifests: dict[tuple[str, str], ObjectInfo] = field(default_factory=dict)
    blobs: dict[str, ObjectInfo] = field(default_factory=dict)
    journal: list[ObjectInfo] = field(default_factory=list)
    leases: list[ObjectInfo] = field(default_factory=list)
    quarantine: list[ObjectInfo] = field(default_factory=list)
    reports: list[ObjectInfo] = field(default_factory=list)
    strange: list[ObjectInfo] = field(default_factory=list)

    def add(self, info: ObjectInfo) -> None:
        """Put an object of this scope where it belongs."""
        parts = info.name[len(self.name) + 1 :].split("/")
        match parts:
            case ["blobs", digest] if is_digest(digest):
                self.blobs[digest] = info
            case ["stages", stage, file] if is_stage_name(stage) and is_digest(file.removesuffix(".json")):
                self.manifests[stage, file.removesuffix(".json")] = info
            case ["journal" | "leases" | "quarantine" | "reports" as kind, *_]:
                getattr(self, kind).append(info)
            case _:
                self.strange.append(info)


def list_in_parallel(
    store: ObjectStore, prefixes: Sequence[str], *, threads: int = LIST_THREADS
) -> Iterator[list[ObjectInfo]]:
    """Listings of several prefixes, in their order, taken at the same time."""
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(lambda prefix: list(store.list(prefix)), prefixes)


def all_scopes(store: ObjectStore) -> Iterator[Scope]:
    """Every scope of a store, people's first; as many listings at a time as `LIST_THREADS`, each in pages on S3.

    Raises:
        StoreError: the store cannot be listed.
    """
    # Keys are hexadecimal, so that sixteen prefixes share the people evenly.
    for rows in list_in_parallel(store, [f"identities/{digit}" for digit in _HEX]):
        for name, group in groupby(rows, key=lambda info: "/".join(info.name.split("/", 2)[:2])):
            if is_identity_key(name.partition("/")[2]):
                yield _scope(name, list(group))
    parts = [f"{layout.COMMON}/blobs/{digit}" for digit in _HEX]
    parts += [f"{layout.COMMON}/{folder}/" for folder in ("journal", "leases", "quarantine", "stages")]
    yield _scope(layout.COMMON, [info for rows in list_in_parallel(store, parts) for info in rows])


def read_scope(store: ObjectStore, name: str) -> Scope:
    """One scope, listed anew."""
    return _scope(name, list(store.list(f"{name}/")))


def _scope(name: str, rows: Sequence[ObjectInfo]) -> Scope:
    scope = Scope(name)
    for info in rows:
        scope.add(info)
    return scope
