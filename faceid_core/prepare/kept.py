"""What earlier calls found of a folder's photos, kept beside the table: a later call goes on where one ended."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from faceid_core.identity import is_identity_id
from faceid_core.photos import HEIC_UNAVAILABLE, decode_png, encode_png
from faceid_core.prepare.check import CheckedPhoto
from faceid_core.private import FOLDER_MODE, owner_only, write_private

NAME = "checked.jsonl"
THUMBNAILS = "thumbnails"
PICTURES = "people"
_FIELDS = {each.name for each in fields(CheckedPhoto)} - {"thumbnail"}


class KeptResults:
    """A line of JSON for each photo, written as it is done, and its thumbnail as a file.

    Args:
        folder: that exists.
        settings: digest of the settings; results of other settings are dropped.
        pictures: folder in which a usable photo has a picture, or None: a result without its picture is not known.
        people: identity ids of the photos; what is there of others, who may have been erased, goes.
    """

    def __init__(self, folder: Path, settings: str, pictures: Path | None, people: Collection[str]):
        self._folder, self._pictures = folder, pictures
        self._thumbnails = folder / THUMBNAILS
        self._thumbnails.mkdir(mode=FOLDER_MODE, exist_ok=True)
        path = folder / NAME
        for gone in _people_of(path) - set(people):
            self._thumbnail(gone).unlink(missing_ok=True)
            (folder / PICTURES / f"{gone}.png").unlink(missing_ok=True)
        self.known = {who: one for who, one in self._read(path, settings).items() if who in people}
        lines = [{"settings": settings}, *map(_record, self.known.values())]
        write_private(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        self._file = open(path, "a", encoding="utf-8", opener=owner_only)  # noqa: SIM115 until `close`

    def add(self, one: CheckedPhoto) -> CheckedPhoto:
        """Keep a result; returns it without its thumbnail."""
        if self.known.get(one.identity_id) is one:
            return one
        if one.thumbnail is not None:
            write_private(self._thumbnail(one.identity_id), encode_png(one.thumbnail))
        else:
            self._thumbnail(one.identity_id).unlink(missing_ok=True)
        one = replace(one, thumbnail=None)
        self._file.write(json.dumps(_record(one)) + "\n")
        self._file.flush()
        return one

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _thumbnail(self, identity_id: str) -> Path:
        return self._thumbnails / f"{identity_id}.png"

    def _read(self, path: Path, settings: str) -> dict[str, CheckedPhoto]:
        """Results by identity id; none of other settings, and none that may come out otherwise on a second try."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return {}
        records = [record for line in lines if (record := _parsed(line)) is not None]
        if not records or records[0] != {"settings": settings}:
            return {}
        found = (_checked(record) for record in records[1:])
        return {one.identity_id: one for one in found if one is not None and self._is_final(one)}

    def _is_final(self, one: CheckedPhoto) -> bool:
        if not one.digest or one.outcome == "failed" or one.reason == HEIC_UNAVAILABLE:
            return False
        if one.outcome != "usable":
            return True
        picture = self._pictures is None or (self._pictures / f"{one.identity_id}.png").is_file()
        return picture and self._thumbnail(one.identity_id).is_file()


def read_thumbnail(folder: Path, identity_id: str) -> np.ndarray | None:
    """The thumbnail of a checked photo, uint8 [h, w, 3], or None."""
    path = folder / THUMBNAILS / f"{identity_id}.png"
    return decode_png(path.read_bytes()) if path.is_file() else None


def _people_of(path: Path) -> set[str]:
    """The identity ids in the records of an earlier call, of any settings."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return set()
    found = {str(record.get("identity_id", "")) for line in lines if (record := _parsed(line)) is not None}
    return {who for who in found if is_identity_id(who)}


def _parsed(line: str) -> dict[str, Any] | None:
    """A line's record, or None for the torn last line of a call that was killed."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _record(one: CheckedPhoto) -> dict[str, Any]:
    return asdict(replace(one, thumbnail=None))


def _checked(record: Mapping[str, Any]) -> CheckedPhoto | None:
    try:
        given = {name: value for name, value in record.items() if name in _FIELDS}
        if given.get("eyes"):
            left, right = given["eyes"]
            given["eyes"] = (tuple(left), tuple(right))
        return CheckedPhoto(**given)
    except (TypeError, ValueError):
        return None
