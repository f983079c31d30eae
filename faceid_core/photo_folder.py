"""What a folder of photos holds: one photo per person, and every other entry with the reason why it is left out."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .file_kinds import kind_of, picture_format

# Endings that make a file a photo whatever it holds. Formats that cannot be decoded are among them on purpose: such a
# person is then rejected by name and not silently left out.
PHOTO_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .webp .tif .tiff .bmp .gif .heic .heics .heif .heifs .hif .avif .avifs .jxl "  # noqa: SIM905
    ".jp2 .j2k .jpf .jpx .dng .cr2 .cr3 .nef .arw .raf .orf .rw2".split()
)
# Of the first bytes of a file, so many tell its kind.
_HEAD_BYTES = 2048
_NAMES_TOLD = 3
_RESULTS = "prepared.csv"
# What `faceid prepare` writes beside its table: into a folder of photos too, before it refused to.
_BESIDE_RESULTS = {"sheet.png", "people", "thumbnails", "against"}
# In the mark of `report.synthetic_mark`, which stands at the beginning of a PNG file.
_DRAWN = b'AISystemUsed="faceid '


@dataclass(frozen=True)
class FolderPhoto:
    """The photo of one person.

    Args:
        identity_id: made from the name of the file or of the person's folder.
        name: of the file, relative to the folder.
    """

    identity_id: str
    name: str


@dataclass(frozen=True)
class LeftOut:
    """An entry of a folder that is no person's photo.

    Args:
        name: relative to the folder.
        reason: a stable slug.
        sentence: what it is and, where there is something to do, what.
    """

    name: str
    reason: str
    sentence: str


def photos_of(folder: Path) -> tuple[list[FolderPhoto], list[LeftOut]]:
    """The people of a folder of photos, and what is left out; both by name.

    A file is a photo by its ending or, whatever it is called, by its content. A subfolder that holds one photo is a
    person with the folder's name.
    """
    found: dict[str, str] = {}
    folders: set[str] = set()
    left_out: list[LeftOut] = []
    entries = sorted(folder.iterdir(), key=lambda each: each.name)
    results = _BESIDE_RESULTS if any(entry.name == _RESULTS for entry in entries) else set()
    for entry in entries:
        if entry.name in results:
            left_out.append(LeftOut(entry.name, "results", "What faceid prepare wrote."))
        elif _is_folder(entry):
            photo, others = _of_person(entry)
            left_out += others
            if photo:
                found[entry.name] = photo
                folders.add(entry.name)
        elif why := _why_no_photo(entry):
            left_out.append(LeftOut(entry.name, *why))
        else:
            found[entry.name] = entry.name
    ids = ids_of_names(list(found), folders=folders)
    return [FolderPhoto(ids[name], photo) for name, photo in found.items()], left_out


def ids_of_names(names: Sequence[str], *, folders: set[str] | frozenset[str] = frozenset()) -> dict[str, str]:
    """An identity id for each name: without its ending, accents left off and `-` for what an id may not have.

    Names that come to one id get their ending as well (`folder` for one of `folders`), and then a number; the answer
    depends on the names alone.
    """
    stems = {name: _as_id(name if name in folders else Path(name).stem) for name in names}
    often = Counter(stems.values())
    ids: dict[str, str] = {}
    taken: set[str] = set()
    following: dict[str, int] = {}  # the number to try next; those before it are taken
    for name in sorted(names):
        made = stems[name]
        if often[made] > 1:
            ending = "folder" if name in folders else Path(name).suffix.lower() or "file"
            made = f"{made[:56]}-{_as_id(ending)[:7]}"
        wanted, number = made, following.get(made, 2)
        while made in taken:
            made, number = f"{wanted[:60]}-{number}", number + 1
        following[wanted] = number
        taken.add(made)
        ids[name] = made
    return ids


def printable(name: str) -> str:
    """A name that any file can hold: bytes that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def summary_of(left_out: Sequence[LeftOut]) -> str:
    """How many entries are left out for which reason, without a name; empty for none."""
    if not left_out:
        return ""
    count = f"{len(left_out)} entries" if len(left_out) > 1 else "1 entry"
    reasons: Mapping[str, int] = Counter(each.reason for each in left_out)
    listed = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
    return (
        f"{count} of the folder of photos left out ({listed}); faceid prepare says which"
    )


def _as_id(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    made = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip(".-")[:64].strip(".-")
    # A name without one letter that an id may have is told apart by its digest.
    return made or f"photo-{hashlib.sha256(os.fsencode(text)).hexdigest()[:8]}"


def _is_folder(entry: Path) -> bool:
    try:
        return entry.is_dir() and not entry.name.startswith(".")
    except OSError:
        return False


def _of_person(folder: Path) -> tuple[str, list[LeftOut]]:
    """The photo of a person's folder, relative to the folder above, or empty; and what is left out."""
    try:
        entries = sorted(folder.iterdir(), key=lambda each: each.name)
    except OSError as error:
        return "", [LeftOut(folder.name, "unreadable", f"A folder that cannot be read ({error.strerror}).")]
    if any(entry.name == _RESULTS for entry in entries):
        sentence = "A folder that faceid prepare wrote."
        return "", [LeftOut(folder.name, "results", sentence)]
    photos, left_out = [], []
    for entry in entries:
        why = ("folder", "A folder inside a person's folder.") if _is_folder(entry) else _why_no_photo(entry)
        if why:
            left_out.append(LeftOut(f"{folder.name}/{entry.name}", *why))
        else:
            photos.append(entry.name)
    if len(photos) == 1:
        return f"{folder.name}/{photos[0]}", left_out
    if not photos:
        sentence = "A folder without a photo in it; photos are looked for in a folder and in its subfolders, no deeper."
        return "", [LeftOut(folder.name, "no_photo_inside", sentence), *left_out]
    some = ", ".join(printable(name) for name in photos[:_NAMES_TOLD])
    more = " ..." if len(photos) > _NAMES_TOLD else ""
    sentence = (
        f"A folder with {len(photos)} photos ({some}{more}). A person is learned from one: leave one in the "
        "folder, or name it in identities.csv."
    )
    return "", [LeftOut(folder.name, "several_photos", sentence), *left_out]


def _why_no_photo(path: Path) -> tuple[str, str] | None:
    """Reason and sentence of a file that is no candidate, or None."""
    if path.name.startswith("."):
        return "hidden", "A hidden file: its name begins with a dot."
    suffix = path.suffix.lower()
    try:
        if not path.exists():
            return "broken_link", "A link to a file that is not there. Restore the file, or make the link again."
        if not path.is_file():
            return "not_a_file", "A pipe, a socket or a device."
        if suffix in PHOTO_SUFFIXES - {".png"}:
            return None
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        # A photo that cannot be read is a person, who is rejected by name.
        unreadable = ("unreadable", f"A file that cannot be read ({error.strerror}).")
        return None if suffix in PHOTO_SUFFIXES else unreadable
    if _DRAWN in head:
        return "drawn", "An image that faceid drew, by its mark. To learn from it, name it in identities.csv."
    # "BM" may begin a text.
    if suffix in PHOTO_SUFFIXES or picture_format(head) not in (None, "PDF", "BMP"):
        return None
    return "not_a_picture", f"The file is {kind_of(head)}, not a picture."
