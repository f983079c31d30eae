"""Files and folders below a root, reached one component at a time so that no symbolic link is followed.

A link below a store's root would let writes land outside the store, and let an erasure miss what lies behind it. So every
component is opened relative to the one before with O_NOFOLLOW. The root itself may be reached through links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..private import FOLDER_MODE

# Folders that are only passed through need no right to be read, where the system knows the difference.
_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_READ = os.O_RDONLY | os.O_NOFOLLOW
# Whatever the umask says, and in a root that was there before: only the owner reads or writes.
_OTHERS = 0o077
_FIRST_READ_BYTES = 65_536


@contextmanager
def opened(root: Path, parts: Sequence[str], *, to_read: bool = False) -> Generator[int]:
    """A descriptor of a folder below the root, in which names are looked up with `dir_fd`.

    Args:
        root: where the way begins.
        parts: components of the folder's name.
        to_read: for listing it or making it durable; else only names can be looked up.

    Raises:
        FileNotFoundError: a component is absent.
        OSError: a component is a link, or no folder; `first_link` tells which of the two.
    """
    folder = _open(root, parts, _FOLDER if to_read else _PASS)
    try:
        yield folder
    finally:
        os.close(folder)


def _open(root: Path, parts: Sequence[str], flags: int) -> int:
    if not parts:
        return os.open(root, flags)
    flags |= os.O_NOFOLLOW
    # O_NOFOLLOW speaks of the last component alone: the root's own links are followed, and one call opens both.
    folder = os.open(f"{root}/{parts[0]}", flags)
    for part in parts[1:]:
        try:
            below = os.open(part, flags, dir_fd=folder)
        finally:
            os.close(folder)
        folder = below
    return folder


@contextmanager
def entered(folder: int, name: str) -> Generator[int]:
    """A descriptor of a folder in an open folder, to read. Raises OSError as `opened` does."""
    below = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    try:
        yield below
    finally:
        os.close(below)


@contextmanager
def made(root: Path, parts: Sequence[str]) -> Generator[int]:
    """As `opened`, to read; folders that are absent are made for the owner only, and survive a power cut.

    Raises:
        FileNotFoundError: a folder was taken away at this moment; try again.
        OSError: as `opened`.
    """
    if not root.is_dir():
        root.parent.mkdir(parents=True, exist_ok=True)
        root.mkdir(mode=FOLDER_MODE, exist_ok=True)
        with opened(root.parent, (), to_read=True) as above:
            os.fsync(above)
    folder = os.open(root, _FOLDER)
    try:
        for part in parts:
            below = _open_or_make(folder, part)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


def _open_or_make(folder: int, part: str) -> int:
    try:
        return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        with suppress(FileExistsError):  # another writer was first
            os.mkdir(part, FOLDER_MODE, dir_fd=folder)
        os.fsync(folder)
        return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)


def read(root: Path, parts: Sequence[str]) -> tuple[bytes, float]:
    """The bytes of a file, and when it was modified in seconds since 1970. Raises OSError as `opened` does."""
    file = open_file(root, parts)
    try:
        return read_all(file), os.fstat(file).st_mtime
    finally:
        os.close(file)


def open_file(root: Path, parts: Sequence[str]) -> int:
    """A descriptor of a file, to read; the caller closes it. Raises OSError as `opened` does."""
    folder = _open(root, parts[:-1], _PASS)
    try:
        return os.open(parts[-1], _READ, dir_fd=folder)
    finally:
        os.close(folder)


def read_all(file: int) -> bytes:
    """The bytes of an open file; pieces grow, so that a large file takes few reads and a small one little memory."""
    data = os.read(file, _FIRST_READ_BYTES)
    while more := os.read(file, max(_FIRST_READ_BYTES, len(data))):
        data += more
    return data


def mode_of(root: Path, parts: Sequence[str]) -> int | None:
    """Kind and permissions of a name, of a link its own; None if it is absent. Raises OSError as `opened` does."""
    try:
        with opened(root, parts[:-1]) as folder:
            return os.stat(parts[-1], dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


def close_to_others(folder: int) -> None:
    """Take an open folder's rights from group and others, if it is ours and they have any."""
    mode = os.fstat(folder).st_mode
    if mode & _OTHERS:
        with suppress(OSError):  # another owner, or a file system without modes: `faceid doctor` tells
            os.fchmod(folder, stat.S_IMODE(mode) & ~_OTHERS)


def first_link(root: Path, parts: Sequence[str]) -> str | None:
    """The first link on the way to a name, with `/` between components; None if there is none."""
    for count in range(1, len(parts) + 1):
        name = "/".join(parts[:count])
        try:
            if stat.S_ISLNK(os.lstat(root / name).st_mode):
                return name
        except OSError:
            return None
    return None


def links_below(root: Path, parts: Sequence[str]) -> Iterator[str]:
    """Every link on the way to a folder and below it; none is followed. Raises OSError if a folder cannot be read."""
    on_the_way = first_link(root, parts)
    if on_the_way is not None:
        yield on_the_way
        return
    try:
        with opened(root, parts, to_read=True) as folder:
            yield from _links(folder, "".join(f"{part}/" for part in parts))
    except (FileNotFoundError, NotADirectoryError):
        return


def _links(folder: int, above: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        found = sorted(
            (entry.name, entry.is_symlink()) for entry in entries if not entry.is_file(follow_symlinks=False)
        )
    for name, is_link in found:
        if is_link:
            yield above + name
            continue
        try:
            with entered(folder, name) as below:
                yield from _links(below, f"{above}{name}/")
        except (FileNotFoundError, NotADirectoryError):  # gone meanwhile, or neither file nor folder
            continue
