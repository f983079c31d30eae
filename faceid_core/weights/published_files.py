"""The files of a published model: their digests, from a lock or from themselves, and where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from faceid_core.errors import MissingWeights

from .catalog import KnownModel
from .deepface_files import find_files
from .lock import LOCK, DamagedWeights, Entry, file_entry, lock_entry
from .place import WeightsPlace, stage


def entry_of(model: KnownModel, place: WeightsPlace) -> Entry:
    """File -> {"sha256", "size"} of a model, from the lock beside it or else from its files.

    Raises:
        MissingWeights: a file is not there; the text names it, its size where known and where to put it.
        DamagedWeights: a file that is not locked is not the published one.
    """
    lock = place.lock()
    if lock is not None and model.folder in lock.models:
        # The lock decides: a file of one's own that was locked is meant.
        entry = lock.models[model.folder]
        absent = [file.name for file in model.files if file.name not in entry]
        if absent:
            raise MissingWeights(f"{model.folder}: {LOCK} does not name its file {absent[0]}; fetch it again")
        return entry
    if place.is_bucket:
        assert lock is not None, "a bucket without a lock is refused"
        raise MissingWeights(
            f"{place.address(LOCK)} does not name {model.folder} (it names {', '.join(sorted(lock.models))}); bring "
            f"it with: faceid models fetch --to {place.source}"
        )
    if model.hub is not None:
        entry = lock_entry(_hub_folder(model, place), noted=True)
    else:
        entry = {path.name: file_entry(path) for path in find_files(model, place.folders)}
    _require_published(model, entry)
    return entry


def paths_of(model: KnownModel, place: WeightsPlace, entry: Entry) -> dict[str, Path]:
    """File -> path on this machine; a bucket's files are copied here."""
    if not place.is_bucket and model.hub is None:
        return {path.name: path for path in find_files(model, place.folders)}
    folder = (
        stage(place.address(model.folder), place.s3, entry=entry)
        if place.is_bucket
        else _hub_folder(model, place)
    )
    return {name: folder / name for name in entry}


def _hub_folder(model: KnownModel, place: WeightsPlace) -> Path:
    """The folder of a model that comes as one, with every file that it must have."""
    if not place.folders:
        raise MissingWeights(
            f"{model.folder} needs a folder of weights: set `weights` and bring it there with: faceid models fetch"
        )
    folder = place.folders[0] / model.folder
    for file in model.files:
        if not (folder / file.name).is_file():
            size = f" ({file.bytes:,} bytes)" if file.bytes else ""
            raise MissingWeights(
                f"{model.folder}: no file {file.name}{size} in {folder}; put it there yourself, or bring it with "
                f"`faceid models fetch` (from {model.hub}): a run downloads nothing"
            )
    return folder


def _require_published(model: KnownModel, entry: Entry) -> None:
    """Refuse files that are not locked and not the published ones."""
    for file in model.files:
        found = entry[file.name]
        if file.sha256 is not None and found["sha256"] != file.sha256:
            raise DamagedWeights(
                f"{model.folder}: {file.name} has sha256 {found['sha256'][:12]}… ({found['size']:,} bytes), but the "
                f"published file has {file.sha256[:12]}…; remove it and bring it back with: faceid models fetch"
            )


def check_file(model: str, path: Path, wanted: Mapping) -> None:
    """Refuse a file that is absent or not the locked one; a large file's digest is noted once it was read."""
    if not path.is_file():
        raise MissingWeights(
            f"{model}: no file {path.name} ({wanted['size']:,} bytes) in {path.parent}; put it there, or bring it "
            "with: faceid models fetch"
        )
    found = file_entry(path)
    if found != {"sha256": wanted["sha256"], "size": wanted["size"]}:
        raise DamagedWeights(
            f"{model}: {path.name} in {path.parent} is not the expected file ({found['size']:,} bytes, "
            f"{wanted['size']:,} expected; sha256 {found['sha256'][:12]}…, {wanted['sha256'][:12]}… expected); "
            "remove it and bring it back with: faceid models fetch"
        )
