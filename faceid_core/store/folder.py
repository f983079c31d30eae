"""A store in a folder: create-if-absent by hard link, compare-and-swap under a lock, nothing half-written."""

from __future__ import annotations

import os
import re
import stat
import time
import uuid
from collections.abc import Generator, Iterator, MutableSequence, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import ConfigurationError, Conflict, LinkInStore, ObjectMissing, StoreError
from ..private import FILE_MODE
from . import beneath
from .file_lock import lock_file
from .keys import sha256_hex
from .local_path import usable_folder
from .objects import RESERVED, ObjectInfo, validate_name, validate_prefix

_MISSPELLED_S3 = re.compile(r"s3[an]?:/?/?", re.IGNORECASE)
# A deletion prunes empty folders, which can take one away under a writer's feet; the writer makes it again.
_ATTEMPTS_AT_VANISHING_FOLDER = 20
# Stores that earlier versions made may have left it open to others.
_PEOPLE = "identities"
# "s3:/bucket" and "file:folder" are slips of the pen, not folders; "./s3:/bucket" is one.
_SCHEME = re.compile(r"(s3|s3a|file|gs|az|https?):", re.IGNORECASE)
_LOCK_SECONDS = 60.0  # held for one write


class FolderStore:
    """Objects as files below one folder of a POSIX file system that has hard links and advisory locks.

    Everything in it is the owner's alone. No symbolic link below the root is followed: what meets one raises LinkInStore.
    """

    def __init__(self, url: str):
        """Point at the folder; it is made with the first object.

        Args:
            url: `file:///folder` or a path.

        Raises:
            ConfigurationError: if the address is of another kind, or one that the tables' library cannot read.
        """
        self.root = folder_of(url)
        self.url = self.root.as_uri()
        self._people_are_closed = False

    def get(self, name: str) -> bytes:
        try:
            file = beneath.open_file(self.root, validate_name(name).split("/"))
            try:
                return beneath.read_all(file)
            finally:
                os.close(file)
        except OSError as error:
            if self._is_absent(name, error):
                raise ObjectMissing(f"{name} is not in {self.url}") from None
            raise self._failed("read", name, error) from error

    def get_with_etag(self, name: str) -> tuple[bytes, str]:
        data = self.get(name)
        return data, sha256_hex(data)

    def head(self, name: str) -> ObjectInfo | None:
        try:
            data, modified = beneath.read(self.root, validate_name(name).split("/"))
        except OSError as error:
            if self._is_absent(name, error):
                return None
            raise self._failed("read", name, error) from error
        return ObjectInfo(name, len(data), sha256_hex(data), modified)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        parts = validate_name(name).split("/")
        try:
            if self._is_there(parts):  # spares the write; the link below is what decides
                return False
            with self._written(data) as (private, temporary):
                return self._link(private, temporary, parts)
        except OSError as error:
            raise self._failed("write", name, error) from error

    def replace_if_match(self, name: str, data: bytes, etag: str | None) -> str:
        *folders, file = validate_name(name).split("/")
        if etag is None:
            if not self.put_if_absent(name, data):
                raise Conflict(f"{name} in {self.url} exists already; read it and decide again")
            return sha256_hex(data)
        try:
            with self._written(data) as (private, temporary), self._locked(name):
                current = self.head(name)
                if current is None or current.etag != etag:
                    raise Conflict(
                        f"{name} in {self.url} changed since it was read; read it and decide again"
                    )
                with beneath.opened(self.root, folders, to_read=True) as folder:
                    os.replace(temporary, file, src_dir_fd=private, dst_dir_fd=folder)
                    os.fsync(folder)
        except OSError as error:
            raise self._failed("replace", name, error) from error
        return sha256_hex(data)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        validate_prefix(prefix)
        folders = prefix.split("/")[:-1]
        links: list[str] = []
        try:
            with beneath.opened(self.root, folders, to_read=True) as folder:
                yield from self._walk(folder, "".join(f"{part}/" for part in folders), prefix, links)
        except OSError as error:
            if not self._is_absent("/".join(folders), error):
                raise self._failed("list", prefix or "everything", error) from error
        # Last, so that who removes what is listed has removed all that can be before this stops it.
        if links:
            raise LinkInStore(links, str(self.root))

    def links(self, prefix: str = "") -> Sequence[str]:
        """The symbolic links at and below a folder, and on the way to it; no operation of the store follows one.

        Args:
            prefix: a folder's name; empty for the whole store, its own files among them.

        Raises:
            StoreError: a folder cannot be read.
        """
        try:
            return list(beneath.links_below(self.root, [part for part in prefix.split("/") if part]))
        except OSError as error:
            raise self._failed("list", prefix or "everything", error) from error

    def refuse_links(self, prefix: str) -> None:
        """Raise LinkInStore if there is a link at or below a folder, or on the way to it."""
        if links := self.links(prefix):
            raise LinkInStore(links, str(self.root))

    def make_folder(self, name: str) -> None:
        """Make a folder, the owner's alone, for a library that writes below it by itself. Raises StoreError."""
        try:
            with beneath.made(self.root, validate_name(name).split("/")):
                pass
        except OSError as error:
            raise self._failed("make", name, error) from error

    def delete(self, name: str) -> None:
        parts = validate_name(name).split("/")
        try:
            if not self._is_there(parts):
                return
            absent = suppress(FileNotFoundError)
            with self._locked(name), absent, beneath.opened(self.root, parts[:-1]) as folder:
                os.unlink(parts[-1], dir_fd=folder)
        except OSError as error:
            raise self._failed("delete", name, error) from error
        # An erased person must not leave even a folder's name behind.
        for depth in range(len(parts) - 2, -1, -1):
            try:
                with beneath.opened(self.root, parts[:depth]) as above:
                    os.rmdir(parts[depth], dir_fd=above)
            except OSError:
                break

    def purge(self, prefix: str) -> int:
        names: list[str] = []
        link = None
        try:
            for info in self.list(prefix):
                names.append(info.name)
        except LinkInStore as error:  # told when everything that is not behind one is gone
            link = error
        for name in names:
            self.delete(name)
        if link is not None:
            raise link
        return len(names)

    def purge_old_versions(self, prefix: str) -> int:
        return 0  # a folder keeps none

    def sweep_unfinished(self, age: float, *, delete: bool) -> tuple[int, int]:
        count, size, now = 0, 0, time.time()
        try:
            with beneath.opened(self.root, (RESERVED,), to_read=True) as private:
                with os.scandir(private) as scanned:
                    entries = list(scanned)
                links = [f"{RESERVED}/{entry.name}" for entry in entries if entry.is_symlink()]
                if links:
                    raise LinkInStore(links, str(self.root))
                for entry in entries:
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode) and now - status.st_mtime > age:
                            count, size = count + 1, size + status.st_size
                            if delete:
                                os.unlink(entry.name, dir_fd=private)
        except FileNotFoundError:
            return 0, 0
        except OSError as error:
            raise self._failed("sweep", RESERVED, error) from error
        return count, size

    def _is_there(self, parts: Sequence[str]) -> bool:
        """Whether there is a file of this name. Raises LinkInStore, OSError."""
        try:
            mode = beneath.mode_of(self.root, parts)
        except OSError as error:
            if self._is_absent("/".join(parts), error):
                return False
            raise
        if mode is not None and stat.S_ISLNK(mode):
            raise LinkInStore(["/".join(parts)], str(self.root))
        return mode is not None and not stat.S_ISDIR(mode)

    def _is_absent(self, name: str, error: OSError) -> bool:
        """Whether reading failed because no object has that name: not if a link is in its place or on the way."""
        if isinstance(error, FileNotFoundError):
            return True
        kinds = (NotADirectoryError, IsADirectoryError)
        return isinstance(error, kinds) and beneath.first_link(self.root, name.split("/")) is None

    def _failed(self, verb: str, name: str, error: OSError) -> StoreError:
        own = (RESERVED, "locks", _lock_of(name))
        link = beneath.first_link(self.root, name.split("/")) or beneath.first_link(self.root, own)
        if link is not None:
            return LinkInStore([link], str(self.root), wanted=f"cannot {verb} {name}")
        reason = error.strerror or str(error)
        return StoreError(
            f"cannot {verb} {name} in {self.url}: {reason}; check space, permissions and the disk"
        )

    def _walk(
        self, folder: int, above: str, prefix: str, links: MutableSequence[str]
    ) -> Iterator[ObjectInfo]:
        """The objects below an open folder; the names of links are added to `links`."""
        with os.scandir(folder) as scanned:
            entries = list(scanned)
        # A folder sorts as its name with the slash, so that whole names come out in order.
        rows = [
            (entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name, entry)
            for entry in entries
        ]
        for shown, entry in sorted(rows, key=lambda row: row[0]):
            name = above + shown
            if not (name.startswith(prefix) or prefix.startswith(name)) or name.rstrip("/") == RESERVED:
                continue
            if not shown.endswith("/") and not name.startswith(prefix):
                continue
            try:
                if shown.endswith("/"):
                    with beneath.entered(folder, entry.name) as below:
                        yield from self._walk(below, name, prefix, links)
                elif entry.is_symlink():
                    links.append(name)
                elif entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    yield ObjectInfo(name, status.st_size, "", status.st_mtime)
            except FileNotFoundError:
                continue
            except NotADirectoryError:  # no folder any more, perhaps a link by now
                if beneath.first_link(self.root, name.rstrip("/").split("/")):
                    links.append(name.rstrip("/"))

    @contextmanager
    def _written(self, data: bytes) -> Generator[tuple[int, str]]:
        """A temporary file that holds `data` durably: the descriptor of its folder, and its name there."""
        temporary = f"{os.getpid()}-{uuid.uuid4().hex}"
        with beneath.made(self.root, (RESERVED,)) as private:
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                with open(os.open(temporary, flags, FILE_MODE, dir_fd=private), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield private, temporary
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=private)

    def _link(self, private: int, temporary: str, parts: Sequence[str]) -> bool:
        for attempt in range(_ATTEMPTS_AT_VANISHING_FOLDER):
            try:
                with beneath.made(self.root, parts[:-1]) as folder:
                    os.link(
                        temporary, parts[-1], src_dir_fd=private, dst_dir_fd=folder, follow_symlinks=False
                    )
                    os.fsync(folder)
                self._close_people(parts)
                return True
            except FileExistsError:
                mode = beneath.mode_of(self.root, parts)
                if mode is not None and not stat.S_ISREG(mode):
                    # A link, or a folder: one object's name is that of another's folder, as S3 alone allows.
                    raise
                return False
            except FileNotFoundError:  # a deleter took the folder away: once more
                if attempt == _ATTEMPTS_AT_VANISHING_FOLDER - 1:
                    raise
        raise AssertionError("unreachable")

    def _close_people(self, parts: Sequence[str]) -> None:
        if parts[0] == _PEOPLE and not self._people_are_closed:
            with beneath.opened(self.root, (_PEOPLE,), to_read=True) as people:
                beneath.close_to_others(people)
            self._people_are_closed = True

    @contextmanager
    def _locked(self, name: str) -> Generator[None]:
        """Exclusive among processes and threads; the system frees a dead holder's lock."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        with beneath.made(self.root, (RESERVED, "locks")) as folder:
            lock = os.open(_lock_of(name), flags, FILE_MODE, dir_fd=folder)
        try:
            path = self.root / RESERVED / "locks" / _lock_of(name)
            lock_file(lock, f"{name} in {self.url}", seconds=_LOCK_SECONDS, path=path)
            yield
        finally:
            os.close(lock)


def _lock_of(name: str) -> str:
    # 256 lock files serve all names: one each would leave a file behind for every erased object.
    return sha256_hex(name.encode())[:2]


def folder_of(url: str) -> Path:
    """The absolute folder that an address names.

    Raises:
        ConfigurationError: if it is not a local address, or holds what the tables' library reads as something else.
    """
    if _MISSPELLED_S3.match(url):
        raise ConfigurationError(
            f"{url} is not a store; an S3 store's address begins with s3:// in lower case"
        )
    if not url:
        raise ConfigurationError(
            "the store's address is empty; give a folder, file:///folder or s3://bucket/prefix"
        )
    if "://" not in url and not _SCHEME.match(url):
        return usable_folder(url)
    # Not `urlsplit` on line breaks and the like: it drops them, and the store would be another folder.
    parts = urlsplit(url) if url.isprintable() else None
    if (
        parts is None
        or parts.scheme != "file"
        or parts.netloc not in ("", "localhost")
        or not url.startswith("file://")
        or not parts.path.startswith("/")
    ):
        raise ConfigurationError(
            f"{url!r} is not a store; give a folder, file:///folder or s3://bucket/prefix"
        )
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise ConfigurationError(
            f"{url!r} is not a store: in a file:// address write # as %23 and ? as %3F, or give the folder's path"
        )
    return usable_folder(unquote(parts.path, errors="surrogateescape"))


def plain_address(url: str) -> str:
    """A store's address as a shell takes it: a folder's path without URL quoting, or the s3:// address itself."""
    return url.rstrip("/") if url.startswith("s3://") else str(folder_of(url))
