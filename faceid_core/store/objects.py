"""What an object store is: named bytes, and the two conditional writes that all else rests on."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import StoreError

# The first component of names that a store keeps for itself (temporary files, locks) and never lists.
RESERVED = ".tmp"
# S3 allows 1,024 bytes including the store's own prefix; a POSIX file name 255.
_MOST_NAME_BYTES = 900
_MOST_COMPONENT_BYTES = 255


@dataclass(frozen=True)
class ObjectInfo:
    """An object as a listing or a head sees it.

    Attributes:
        name: relative to the store's root, with `/` between components.
        size: bytes.
        etag: what `replace_if_match` compares; empty in a folder's listings, which do not read the files.
        modified: seconds since 1970, by the store's clock.
    """

    name: str
    size: int
    etag: str
    modified: float


class ObjectStore(Protocol):
    """Named bytes with create-if-absent and compare-and-swap; methods may be called from several threads."""

    url: str

    def get(self, name: str) -> bytes:
        """The object's bytes. Raises ObjectMissing."""
        ...

    def get_with_etag(self, name: str) -> tuple[bytes, str]:
        """The object's bytes and the etag that belongs to exactly these bytes. Raises ObjectMissing."""
        ...

    def head(self, name: str) -> ObjectInfo | None:
        """What is known of the object without handing out its bytes; None if there is none."""
        ...

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Create the object whole and durably; False, and nothing changed, if one was there already."""
        ...

    def replace_if_match(self, name: str, data: bytes, etag: str | None) -> str:
        """Replace the object if it has `etag` (None: if it is absent); its new etag. Raises Conflict."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose name starts with `prefix` (any string, as on S3), in the order of the names."""
        ...

    def links(self, prefix: str = "") -> Sequence[str]:
        """Symbolic links at and below a folder's name, which no operation follows: each raises LinkInStore there.

        A listing that meets one raises it after everything else was listed. S3 has none.
        """
        ...

    def delete(self, name: str) -> None:
        """Remove the object; absent is fine."""
        ...

    def purge(self, prefix: str) -> int:
        """Remove every object under a prefix with all versions that the store keeps; how many there were."""
        ...

    def purge_old_versions(self, prefix: str) -> int:
        """Remove what a versioned store keeps of objects that were replaced or deleted; how many there were."""
        ...

    def sweep_unfinished(self, age: float, *, delete: bool) -> tuple[int, int]:
        """Writes that were begun `age` seconds ago and never finished: how many, and their bytes; with `delete` gone."""
        ...


def validate_name(name: str) -> str:
    """The name itself, if it can name an object on every store.

    Raises:
        StoreError: if it is empty, absolute, too long, climbs out of the store, is reserved, or holds control
            characters or backslashes.
    """
    fault = _fault(name)
    if fault:
        raise StoreError(f"{name!r} cannot name an object: {fault}")
    return name


def validate_prefix(prefix: str) -> str:
    """The prefix itself, if names can start with it; the empty prefix is every name. Raises StoreError."""
    # A prefix may end anywhere, as "identities/a" and "identities/" do: judge it as a name that goes on.
    fault = _fault(prefix + "x") if prefix else None
    if fault:
        raise StoreError(f"{prefix!r} cannot begin an object's name: {fault}")
    return prefix


def _fault(name: str) -> str | None:
    if not isinstance(name, str) or not name:
        return "it is empty"
    if name.startswith("/"):
        return "it is absolute; names are relative to the store's root"
    if "\\" in name:
        return "it holds a backslash"
    plain = name.isascii() and name.isprintable()  # nearly all names; looking at each character takes longer
    if not plain and any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        return "it holds a control character"
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "a component is empty, '.' or '..'"
    if parts[0] == RESERVED:
        return f"{RESERVED!r} belongs to the store itself"
    if len(name.encode()) > _MOST_NAME_BYTES or any(
        len(part.encode()) > _MOST_COMPONENT_BYTES for part in parts
    ):
        return f"it is longer than {_MOST_NAME_BYTES} bytes, or a component than {_MOST_COMPONENT_BYTES}"
    return None
