"""Which paths a folder store may have: those that Python and the tables' library (delta-rs) read in the same way."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from ..errors import ConfigurationError

# Linux takes 255 bytes a name and 4,096 a path; the tables' files have some 200 below the root.
_MOST_NAME_BYTES, _MOST_ROOT_BYTES = 255, 3_500
_PERCENT_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")


def usable_folder(path: str) -> Path:
    """The folder, absolute and without links, if every library that works in it reads its path in the same way.

    Raises:
        ConfigurationError: if one does not, or the path names no folder or is too long.
    """
    try:
        root = Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # an unknown ~user, links in a circle, a zero byte
        raise ConfigurationError(f"{path!r} cannot be a store's folder: {error}") from error
    if os.path.exists(root) and not os.path.isdir(root):
        raise ConfigurationError(f"{str(root)!r} cannot be a store's folder: it is a file; give a folder")
    fault = _fault(str(root))
    if fault:
        raise ConfigurationError(
            f"{str(root)!r} cannot be a store's folder: {fault}; the tables' library (delta-rs) reads such a path as "
            "another one. Rename the folder or choose another"
        )
    if len(os.fsencode(root)) > _MOST_ROOT_BYTES or any(
        len(os.fsencode(part)) > _MOST_NAME_BYTES for part in root.parts
    ):
        raise ConfigurationError(
            f"{str(root)!r} cannot be a store's folder: it is too long; choose a shorter path"
        )
    return root


def _fault(path: str) -> str | None:
    """What in a path delta-rs reads as something else, which would only show when a whole run is published."""
    odd = sorted({character for character in path if character in "\\[]|^"})
    if odd:
        return f"it holds {' '.join(odd)}"
    escape = _PERCENT_ESCAPE.search(path)
    if escape:
        return f"it holds {escape[0]}, a percent sign before two hexadecimal digits"
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in path):
        return "it holds a line break or another control character"
    if any(unicodedata.category(character) == "Cs" for character in path):
        return "its name is not UTF-8"
    return None
