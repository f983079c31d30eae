"""Where a model's files lie and what their digests are: told to the driver without loading, checked for workers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from faceid_core.errors import MissingWeights, StoreError
from faceid_core.store.keys import canonical_json, sha256_hex
from faceid_core.store.objects import validate_name
from faceid_core.weights.lock import (
    DamagedWeights,
    ModelsLock,
    cache_folder,
    file_entry,
    lock_entry,
    parse_lock,
)

from .catalog import DETECTORS, KnownModel
from .deepface_files import find_files

LOCK = "models.lock"
Entry = Mapping[str, Mapping]


@dataclass(frozen=True)
class WeightsPlace:
    """Where weights that do not ship were put.

    Args:
        source: a folder or s3://bucket/prefix with a folder for each model, as `faceid models fetch` makes it; empty
            means DeepFace's own folder and installed packages.
        s3: as `config.s3` has it.
    """

    source: str = ""
    s3: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_bucket(self) -> bool:
        """Whether it is an s3:// address."""
        return self.source.startswith("s3://")

    @property
    def folders(self) -> tuple[Path, ...]:
        """The configured folder, if it is one."""
        return (Path(self.source),) if self.source and not self.is_bucket else ()

    def lock(self) -> ModelsLock | None:
        """The lock that lies beside the models; None where there is none.

        Raises:
            MissingWeights: a bucket has none, and without it nothing there can be checked.
        """
        if self.is_bucket:
            return _bucket_lock(self.source, json.dumps(dict(self.s3), sort_keys=True))
        path = self.folders[0] / LOCK if self.folders else None
        return ModelsLock.load(path) if path is not None and path.exists() else None


NOWHERE = WeightsPlace()


@lru_cache(maxsize=8)
def _bucket_lock(source: str, s3: str) -> ModelsLock:
    from .transports import s3_object

    address = f"{source.rstrip('/')}/{LOCK}"
    store, name = s3_object(address, json.loads(s3))
    try:
        return parse_lock(store.get(name), address)
    except StoreError as error:
        raise MissingWeights(
            f"{address} cannot be read: {error}; bring the weights there with: faceid models fetch --to {source}"
        ) from error


def entry_of(model: KnownModel, place: WeightsPlace) -> Entry:
    """File -> {"sha256", "size"} of a model, from the lock beside it or else from its files.

    Raises:
        MissingWeights: a file is not there; the text names it, its size where known and where to put it.
        DamagedWeights: a file is not the one that the catalog knows.
    """
    lock = place.lock()
    if lock is not None and model.folder in lock.models:
        # The lock decides: whoever locked a file of his own meant it.
        entry = lock.models[model.folder]
        _require_complete(model, entry)
        return entry
    if place.is_bucket:
        raise MissingWeights(
            f"{place.source}/{LOCK} does not name {model.folder} (it names {', '.join(sorted(lock.models))}); bring "
            f"it with: faceid models fetch --to {place.source}"
        )
    if model.hub is not None:
        entry = lock_entry(_hub_folder(model, place), noted=True)
    else:
        entry = {path.name: file_entry(path) for path in find_files(model, place.folders)}
    _require_known(model, entry)
    return entry


def digest_of(entry: Entry) -> str:
    """One SHA-256 for all files of a model, as `ModelsLock.digest` gives it."""
    return sha256_hex(canonical_json(entry))


def files_of(model: KnownModel, place: WeightsPlace, *, digest: str) -> tuple[Path, ...]:
    """A model's files on this machine, copied from the bucket if that is where they are, each checked.

    Args:
        digest: that the run was planned with.

    Raises:
        MissingWeights, DamagedWeights: a file is not there, or is not the planned one.
    """
    entry = entry_of(model, place)
    if digest_of(entry) != digest:
        raise DamagedWeights(f"the files of {model.folder} changed since the run was planned; start it again")
    if place.is_bucket:
        paths = _staged(model, place, entry)
    elif model.hub is not None:
        folder = _hub_folder(model, place)
        paths = {name: folder / name for name in entry}
    else:
        paths = {path.name: path for path in find_files(model, place.folders)}
    for name, path in paths.items():
        check_file(model.folder, path, entry[name])
    return tuple(paths.values())


def detector_folders(name: str, place: WeightsPlace) -> tuple[Path, ...]:
    """Folders in which a face detector's files are looked for first; from a bucket they are brought here.

    Raises:
        MissingWeights, DamagedWeights: the bucket has no lock or no such file, and neither a package nor DeepFace's own
            folder has it.
    """
    model = DETECTORS.get(name)
    if not place.is_bucket or model is None:
        return place.folders
    if model.folder not in place.lock().models:
        try:
            find_files(model)
            return ()
        except MissingWeights:
            pass  # what is said below names the bucket
    digest = digest_of(entry_of(model, place))
    return tuple(dict.fromkeys(path.parent for path in files_of(model, place, digest=digest)))


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


def _hub_folder(model: KnownModel, place: WeightsPlace) -> Path:
    """The folder of a model that comes as one, with every file that it must have.

    Raises:
        MissingWeights: no place is configured, or a file is absent.
    """
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


def _staged(model: KnownModel, place: WeightsPlace, entry: Entry) -> dict[str, Path]:
    """The files of a bucket's model in this machine's cache, brought there if they are not."""
    from .transports import bring

    folder = cache_folder() / "weights" / f"{model.folder}-{digest_of(entry)[:16]}"
    for name, wanted in entry.items():
        target = folder / validate_name(name)
        if not target.is_file() or file_entry(target)["sha256"] != wanted["sha256"]:
            bring(
                f"{place.source.rstrip('/')}/{model.folder}/{name}",
                target,
                sha256=wanted["sha256"],
                s3=place.s3,
            )
    return {name: folder / name for name in entry}


def _require_complete(model: KnownModel, entry: Entry) -> None:
    absent = [file.name for file in model.files if file.name not in entry]
    if absent:
        raise MissingWeights(f"{model.folder}: {LOCK} does not name its file {absent[0]}; fetch it again")


def _require_known(model: KnownModel, entry: Entry) -> None:
    """Refuse files that nobody locked and that are not the published ones."""
    for file in model.files:
        found = entry[file.name]
        if file.sha256 is not None and found["sha256"] != file.sha256:
            raise DamagedWeights(
                f"{model.folder}: {file.name} has sha256 {found['sha256'][:12]}… ({found['size']:,} bytes), but the "
                f"published file has {file.sha256[:12]}…; remove it and bring it back with: faceid models fetch"
            )
