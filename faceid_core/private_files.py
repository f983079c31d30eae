"""Files outside the store that hold faces, tokens or identity ids: their owner's alone when they are made."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER_MODE = 0o700
_FILE_MODE = 0o600


def write_private(path: str | Path, data: bytes) -> None:
    """Write a file that only its owner can read; one that is there keeps the rights that it was given."""
    with open(path, "wb", opener=owner_only) as file:
        file.write(data)


def owner_only(path: str, flags: int) -> int:
    """An `opener` for `open` under which a new file is readable and writable by its owner only."""
    return os.open(path, flags, _FILE_MODE)
