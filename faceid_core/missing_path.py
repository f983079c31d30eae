"""Why a path may lead nowhere although its file is there: the usual slips, in words that hold no part of the path."""

from __future__ import annotations

import os
import re
import unicodedata
from functools import lru_cache
from itertools import islice
from pathlib import Path

_DRIVE = re.compile(r"(^|/)[A-Za-z]:($|[\\/])")
_VARIABLE = re.compile(r"\$\{?[A-Za-z_]|%[A-Za-z_]+%")
_ESCAPED = re.compile(r"%[0-9A-Fa-f]{2}")
# A folder is listed at most so far: this only explains.
_MOST_NAMES = 100_000


def why_missing(path: str) -> str:
    """What may be wrong with a local path at which no file is; empty where nothing is seen.

    Returns:
        A clause such as "it holds backslashes; write / between folders". It names no folder and no file.
    """
    slip = slip_of_writing(path)
    if slip:
        return slip
    try:
        return _nearest(Path(path))
    except (OSError, ValueError):
        return ""


def slip_of_writing(address: str) -> str:
    """What the writing of an address shows by itself: backslashes, a drive, `~`, variables, escapes, other quotes."""
    if _DRIVE.search(address):
        return "it is a path of Windows; write it as this machine sees the folder"
    if "\\" in address:
        return "it holds backslashes; write / between folders"
    if any(part.startswith("~") for part in address.split("/")):
        return "it holds ~, which is not replaced by a home folder; write the whole path"
    if _VARIABLE.search(address):
        return "it holds a variable, which is not replaced; write the whole path"
    if _ESCAPED.search(address):
        return "it is written as in a web address; write spaces and accents as they are, not as % and digits"
    if address[-1:] in "\"'“”‘’":
        return "it ends in a quotation mark; take it out"
    return ""


def composed_otherwise(name: str) -> list[str]:
    """The same name with its accents encoded differently (Unicode NFC and NFD), as other systems write it."""
    twins = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    return [twin for twin in twins if twin != name]


def _nearest(path: Path) -> str:
    """Compare the first part of a path that is not there with what its folder holds."""
    above = path
    while not above.parent.exists() and above.parent != above:
        above = above.parent
    is_file = above == path
    what = "the file" if is_file else "one of its folders"
    if above.is_symlink():
        return f"{what} is a link whose target is not there; is the disk mounted?"
    names, stems = _names(str(above.parent), above.parent.stat().st_mtime_ns)
    composed = unicodedata.normalize("NFC", above.name)
    if any(twin in names.get(composed.casefold(), ()) for twin in composed_otherwise(above.name)):
        return (
            f"{what} is there with its accents encoded differently (Unicode NFC and NFD); copy its name from the folder"
        )
    if composed.casefold() in names:
        return f"{what} is there with other capital or small letters"
    if is_file and Path(composed).stem.casefold() in stems:
        return "a file of that name with another extension is there"
    return "its folder is there, the file is not" if is_file else "its folder does not exist"


@lru_cache(maxsize=16)
def _names(folder: str, changed: int) -> tuple[dict[str, set[str]], set[str]]:
    """Names of a folder by their composed form in small letters, and these without endings; `changed` keeps it fresh."""
    names: dict[str, set[str]] = {}
    with os.scandir(folder) as entries:
        for entry in islice(entries, _MOST_NAMES):
            names.setdefault(unicodedata.normalize("NFC", entry.name).casefold(), set()).add(entry.name)
    return names, {Path(name).stem for name in names}
