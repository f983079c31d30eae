"""A store's scopes, listed in parallel: for each what stands there, by kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby

from faceid_core.errors import LinkInStore
from faceid_core.store import layout
from faceid_core.store.folder import plain_address
from faceid_core.store.keys import is_digest, is_stage_name
from faceid_core.store.objects import ObjectInfo, ObjectStore
from faceid_core.store.secret import is_identity_key

LIST_THREADS = 16
_HEX = "0123456789abcdef"


@dataclass
class Scope:
    """One scope as a listing sees it.

    Attributes:
        name: 'identities/<key>' or 'common'.
        manifests: (stage, stage key) -> object. blobs: digest -> object.
        checkpoints, leases, quarantine, reports: objects of these folders.
        strange: everything that no faceid writes here.
        links: names of symbolic links, which are not followed.
    """

    name: str
    manifests: dict[tuple[str, str], ObjectInfo] = field(default_factory=dict)
    blobs: dict[str, ObjectInfo] = field(default_factory=dict)
    checkpoints: list[ObjectInfo] = field(default_factory=list)
    leases: list[ObjectInfo] = field(default_factory=list)
    quarantine: list[ObjectInfo] = field(default_factory=list)
    reports: list[ObjectInfo] = field(default_factory=list)
    strange: list[ObjectInfo] = field(default_factory=list)
    links: list[str] = field(default_factory=list)

    def add(self, info: ObjectInfo) -> None:
        """Put an object of this scope where it belongs."""
        parts = info.name[len(self.name) + 1 :].split("/")
        match parts:
            case ["blobs", digest] if is_digest(digest):
                self.blobs[digest] = info
            case ["stages", stage, file] if is_stage_name(stage) and is_digest(file.removesuffix(".json")):
                self.manifests[stage, file.removesuffix(".json")] = info
            case ["checkpoints" | "leases" | "quarantine" | "reports" as kind, *_]:
                getattr(self, kind).append(info)
            case _:
                self.strange.append(info)


def all_scopes(store: ObjectStore) -> Iterator[Scope]:
    """Every scope of a store, people's first; as many listings at a time as `LIST_THREADS`, each in pages on S3.

    Raises:
        LinkInStore: after all scopes, if a symbolic link belongs to none of them, so that there may be more.
        StoreError: the store cannot be listed.
    """
    # Keys are hexadecimal, so that sixteen prefixes share the people evenly.
    stray: list[str] = []
    for rows, links in _list_in_parallel(store, [f"identities/{digit}" for digit in _HEX]):
        scopes = {}
        for name, group in groupby(rows, key=lambda info: _scope_name(info.name)):
            if is_identity_key(name.partition("/")[2]):
                scopes[name] = _scope(name, list(group), [])
        for link in links:
            name = _scope_name(link)
            if is_identity_key(name.partition("/")[2]):
                scopes.setdefault(name, Scope(name)).links.append(link)
            else:
                stray.append(link)
        yield from scopes.values()
    parts = [f"{layout.COMMON}/blobs/{digit}" for digit in _HEX]
    parts += [f"{layout.COMMON}/{folder}/" for folder in ("checkpoints", "leases", "quarantine", "stages")]
    listed = list(_list_in_parallel(store, parts))
    yield _scope(
        layout.COMMON,
        [info for rows, _ in listed for info in rows],
        [link for _, links in listed for link in links],
    )
    _refuse(store, stray)


def read_scope(store: ObjectStore, name: str) -> Scope:
    """List one scope."""
    return _scope(name, *_list_with_links(store, f"{name}/"))


def _list_in_parallel(
    store: ObjectStore, prefixes: Sequence[str]
) -> Iterator[tuple[list[ObjectInfo], list[str]]]:
    with ThreadPoolExecutor(LIST_THREADS) as pool:
        yield from pool.map(lambda prefix: _list_with_links(store, prefix), prefixes)


def _list_with_links(store: ObjectStore, prefix: str) -> tuple[list[ObjectInfo], list[str]]:
    """What can be listed below a prefix, and the symbolic links behind which there may be more."""
    rows: list[ObjectInfo] = []
    try:
        for info in store.list(prefix):
            rows.append(info)
    except LinkInStore as error:
        return rows, list(error.links)
    return rows, []


def _refuse(store: ObjectStore, links: Sequence[str]) -> None:
    if links:
        found = sorted(set(links))
        raise LinkInStore(found, plain_address(store.url))


def _scope_name(name: str) -> str:
    return "/".join(name.split("/", 2)[:2])


def _scope(name: str, rows: Sequence[ObjectInfo], links: Sequence[str]) -> Scope:
    scope = Scope(name, links=sorted(set(links)))
    for info in rows:
        scope.add(info)
    return scope
