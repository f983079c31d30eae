"""A store in a folder: create-if-absent by hard link, compare-and-swap under a lock, nothing half-written."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import ConfigurationError, Conflict, ObjectMissing, StoreError
from .file_lock import lock_file
from .keys import sha256_hex
from .objects import RESERVED, ObjectInfo, validate_name, validate_prefix

# A deletion prunes empty folders, which can take one away under a writer's feet; the writer makes it again.
_ATTEMPTS_AT_VANISHING_FOLDER = 20
_LOCK_SECONDS = 60.0  # held for one write


class FolderStore:
    """Objects as files below one folder of a POSIX file system that has hard links and advisory locks."""

    def __init__(self, url: str):
        """Point at the folder; it is made, readable by its owner only, with the first object.

        Args:
            url: `file:///folder` or a path.

        Raises:
            ConfigurationError: if the address is of another kind.
        """
        self.root = folder_of(url)
        self.url = self.root.as_uri()
        self._private = self.root / RESERVED

    def get(self, name: str) -> bytes:
        try:
            return self._path(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectMissing(f"{name} is not in {self.url}") from None
        except OSError as error:
            raise self._failed("read", name, error) from error

    def get_with_etag(self, name: str) -> tuple[bytes, str]:
        data = self.get(name)
        return data, sha256_hex(data)

    def head(self, name: str) -> ObjectInfo | None:
        try:
            with open(self._path(name), "rb") as file:
                status = os.fstat(file.fileno())
                etag = hashlib.file_digest(file, "sha256").hexdigest()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise self._failed("read", name, error) from error
        return ObjectInfo(name, status.st_size, etag, status.st_mtime)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        path = self._path(name)
        if path.is_file():  # spares the write; the link below is what decides
            return False
        try:
            with self._written(data) as temporary:
                return self._link(temporary, path)
        except OSError as error:
            raise self._failed("write", name, error) from error

    def replace_if_match(self, name: str, data: bytes, etag: str | None) -> str:
        path = self._path(name)
        if etag is None:
            if not self.put_if_absent(name, data):
                raise Conflict(f"{name} in {self.url} exists already; read it and decide again")
            return sha256_hex(data)
        try:
            with self._written(data) as temporary, self._locked(name):
                current = self.head(name)
                if current is None or current.etag != etag:
                    raise Conflict(
                        f"{name} in {self.url} changed since it was read; read it and decide again"
                    )
                os.replace(temporary, path)
                _sync_folder(path.parent)
        except OSError as error:
            raise self._failed("replace", name, error) from error
        return sha256_hex(data)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        validate_prefix(prefix)
        inner = prefix.rpartition("/")[0]
        yield from self._walk(self.root / inner if inner else self.root, inner + "/" if inner else "", prefix)

    def delete(self, name: str) -> None:
        path = self._path(name)
        if not path.exists():
            return
        try:
            with self._locked(name):
                path.unlink(missing_ok=True)
        except IsADirectoryError:
            return
        except OSError as error:
            raise self._failed("delete", name, error) from error
        # An erased person must not leave even a folder's name behind.
        for folder in path.parents:
            if folder == self.root:
                break
            try:
                folder.rmdir()
            except OSError:
                break

    def purge(self, prefix: str) -> int:
        found = 0
        for info in list(self.list(prefix)):
            self.delete(info.name)
            found += 1
        return found

    def purge_old_versions(self, prefix: str) -> int:
        return 0  # a folder keeps none

    def sweep_unfinished(self, age: float, *, delete: bool) -> tuple[int, int]:
        count, size, now = 0, 0, time.time()
        try:
            with os.scandir(self._private) as scanned:
                entries = [entry for entry in scanned if entry.is_file(follow_symlinks=False)]
        except FileNotFoundError:
            return 0, 0
        for entry in entries:
            with suppress(FileNotFoundError):
                status = entry.stat()
                if now - status.st_mtime > age:
                    count, size = count + 1, size + status.st_size
                    if delete:
                        os.unlink(entry.path)
        return count, size

    def _path(self, name: str) -> Path:
        return self.root / validate_name(name)

    def _failed(self, verb: str, name: str, error: OSError) -> StoreError:
        reason = error.strerror or str(error)
        return StoreError(
            f"cannot {verb} {name} in {self.url}: {reason}; check space, permissions and the disk"
        )

    def _walk(self, folder: Path, above: str, prefix: str) -> Iterator[ObjectInfo]:
        try:
            with os.scandir(folder) as scanned:
                entries = list(scanned)
        except (FileNotFoundError, NotADirectoryError):
            return
        # A folder sorts as its name with the slash, so that whole names come out in order.
        rows = [
            (entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name, entry)
            for entry in entries
        ]
        for shown, entry in sorted(rows, key=lambda row: row[0]):
            name = above + shown
            if not (name.startswith(prefix) or prefix.startswith(name)) or name == RESERVED + "/":
                continue
            if shown.endswith("/"):
                yield from self._walk(folder / entry.name, name, prefix)
            elif name.startswith(prefix) and entry.is_file():
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                yield ObjectInfo(name, status.st_size, "", status.st_mtime)

    @contextmanager
    def _written(self, data: bytes) -> Iterator[Path]:
        """A temporary file on the store's own file system that holds `data` durably."""
        self._make_folder(self._private)
        temporary = self._private / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _link(self, temporary: Path, path: Path) -> bool:
        for attempt in range(_ATTEMPTS_AT_VANISHING_FOLDER):
            try:
                self._make_folder(path.parent)
                os.link(temporary, path)
                _sync_folder(path.parent)
                return True
            except FileExistsError as error:
                in_the_way = [folder for folder in path.parents if folder.is_file()]
                if path.is_dir() or in_the_way:
                    raise  # one object's name is the folder of another's, which S3 allows and a folder cannot
                if error.filename2 is not None:  # the link's own answer: somebody was first
                    return False
                # A folder vanished between mkdir's answer and its check: a deleter was tidying up. Once more.
                if attempt == _ATTEMPTS_AT_VANISHING_FOLDER - 1:
                    raise
            except FileNotFoundError:
                if attempt == _ATTEMPTS_AT_VANISHING_FOLDER - 1:
                    raise
        raise AssertionError("unreachable")

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Exclusive among processes and threads; the system frees a dead holder's lock."""
        folder = self._private / "locks"
        self._make_folder(folder)
        # 256 lock files serve all names: one each would leave a file behind for every erased object.
        with open(folder / sha256_hex(name.encode())[:2], "ab") as lock:
            lock_file(lock, f"{name} in {self.url}", seconds=_LOCK_SECONDS)
            yield

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        if folder != self.root:
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(folder.parent)


def folder_of(url: str) -> Path:
    """The absolute folder that an address names.

    Raises:
        ConfigurationError: if it is not a local address.
    """
    if "://" not in url:
        if not url:
            raise ConfigurationError(
                "the store's address is empty; give a folder, file:///folder or s3://bucket/prefix"
            )
        return Path(url).expanduser().resolve()
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ConfigurationError(f"{url} is not a store; give a folder, file:///folder or s3://bucket/prefix")
    return Path(unquote(parts.path)).resolve()


def plain_address(url: str) -> str:
    """A store's address as a shell takes it: a folder's path without URL quoting, or the s3:// address itself."""
    return url.rstrip("/") if url.startswith("s3://") else str(folder_of(url))


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
