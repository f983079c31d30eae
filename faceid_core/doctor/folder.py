"""A folder store: what in it is open to other users of the machine, and what lies behind symbolic links."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from faceid_core.store.folder import FolderStore
from faceid_core.store.layout import TOP_NAMES

from .finding import Finding

_READ_OR_WRITE, _WRITE, _ENTER = 0o066, 0o022, 0o011
_LINKS_TOLD = 5


def folder(store: FolderStore) -> Iterator[Finding]:
    """Everything in a store is its owner's alone, and none of it is a link."""
    yield _modes(store.root)
    links = store.links()
    if links:
        first = ", ".join(shlex.quote(str(store.root / link)) for link in links[:_LINKS_TOLD])
        more = f" and {len(links) - _LINKS_TOLD} more" if len(links) > _LINKS_TOLD else ""
        yield Finding(
            "store: links",
            "fail",
            f"{first}{more}: symbolic links below the store's root are not followed",
            "put the real folder or file in each link's place, or erase what is behind it and remove the link",
        )


def _modes(root: Path) -> Finding:
    check = "store: private"
    if _mode(root) & _ENTER == 0 or _closed_above(root):
        return Finding(check, "ok", "only its owner can enter it")
    counts = {name: count for name in TOP_NAMES if (count := _open_below(root / name, _mode(root / name)))}
    if _mode(root) & _WRITE:
        return Finding(
            check,
            "warn",
            f"{root} can be changed by other users",
            f"run: chmod -R go= {shlex.quote(str(root))}",
        )
    if not counts:
        return Finding(check, "ok", "nothing in it is open to other users")
    told = ", ".join(f"{name} ({count})" for name, count in counts.items())
    paths = " ".join(shlex.quote(str(root / name)) for name in counts)
    return Finding(
        check,
        "warn",
        f"other users can read or change files and folders in {root}: {told}",
        f"run: chmod -R go= {paths}",
    )


def _closed_above(root: Path) -> bool:
    """Whether others cannot even come to the store, as in a home folder that is closed."""
    return any(_mode(folder) & _ENTER == 0 for folder in root.parents)


def _open_below(path: Path, mode: int) -> int:
    """How many files and folders others can read or change, of those that they can come to."""
    if stat.S_ISLNK(mode):
        return 0
    count = int(mode & _READ_OR_WRITE != 0)
    if not stat.S_ISDIR(mode) or mode & _ENTER == 0:
        return count
    try:
        with os.scandir(path) as entries:
            return count + sum(_open_below(Path(entry.path), _mode(entry.path)) for entry in entries)
    except OSError:  # another user's, or gone
        return count


def _mode(path: str | Path) -> int:
    """Kind and permissions of a name, of a link its own; 0 if it is absent."""
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0
