"""Where weights that do not ship were put: a folder or a bucket, and the copy of a bucket's files on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from faceid_core.errors import MissingWeights, StoreError
from faceid_core.store import S3Settings, open_store
from faceid_core.store.file_lock import lock_file
from faceid_core.store.keys import sha256_hex
from faceid_core.store.objects import validate_name
from faceid_core.store.open import is_s3

from .lock import LOCK, Entry, ModelsLock, cache_folder, file_entry, parse_lock

if TYPE_CHECKING:
    from faceid_core.store.s3 import S3Store

_MODEL_SUFFIXES = (".json", ".txt", ".safetensors")
_STAGING_SECONDS = 3 * 3600.0  # for another process to bring a large model over a slow line


@dataclass(frozen=True)
class WeightsPlace:
    """A folder of weights: below it one folder for each model and models.lock, as `faceid models fetch` makes it.

    Args:
        source: a folder or s3://bucket/prefix; of models that are fetched from there also http(s)://. Empty means that
            none is configured: DeepFace's own folder, installed packages and the hub's cache are looked in.
        s3: how to reach a bucket; None takes what the environment says.
    """

    source: str = ""
    s3: S3Settings | None = None

    @property
    def is_bucket(self) -> bool:
        """Whether it is an s3:// address."""
        return self.source.startswith("s3://")

    @property
    def folders(self) -> tuple[Path, ...]:
        """The configured folder, if it is one."""
        return (Path(self.source),) if self.source and not self.is_bucket else ()

    def address(self, *names: str) -> str:
        """The address of something below it."""
        return "/".join([self.source.rstrip("/"), *names])

    def lock(self) -> ModelsLock | None:
        """The lock that lies beside the models; None where there is none.

        Raises:
            MissingWeights: a bucket has none, and without it nothing there can be checked.
        """
        if self.is_bucket:
            return _bucket_lock(self)
        path = self.folders[0] / LOCK if self.folders else None
        return ModelsLock.load(path) if path is not None and path.exists() else None

    def names(self, model: str) -> bool:
        """Whether the lock that lies beside the models names one, by its folder; raises as `lock`."""
        lock = self.lock()
        return lock is not None and model in lock.models


NOWHERE = WeightsPlace()


@lru_cache(maxsize=8)
def _bucket_lock(place: WeightsPlace) -> ModelsLock:
    address = place.address(LOCK)
    try:
        return parse_lock(open_store(place.address(), place.s3).get(LOCK), address)
    except StoreError as error:
        raise MissingWeights(
            f"{address} cannot be read: {error}; bring the weights there with: faceid models fetch --to {place.source}"
        ) from error


def stage(address: str, s3: S3Settings | None, *, entry: Entry | None = None) -> Path:
    """Copy what lies at a bucket's address to this machine, once for each version of each file.

    Several processes of one machine take turns. A file that is gone from the bucket is removed here too.

    Args:
        address: `s3://bucket/prefix` of a model's folder, or of one `.safetensors` file.
        s3: how to reach the bucket.
        entry: the model's entry in a lock. Its files are copied, and a copy of another digest is copied again; without
            it every file of a model is, and a copy counts as long as the object's ETag and size stay.

    Returns:
        The folder, or the file.

    Raises:
        MissingWeights: nothing lies there.
        StoreError: the bucket cannot be read.
    """
    address = address.rstrip("/")
    single = address.endswith(".safetensors")
    prefix, _, leaf = address.rpartition("/") if single else (address, "", "")
    store = open_store(prefix, s3)
    assert is_s3(store), f"{address} is no address of a bucket"
    folder = cache_folder() / "weights" / sha256_hex(address.encode())[:32]
    with _alone(folder):
        if entry is not None:
            _copy_locked(store, entry, folder)
        else:
            _copy_changed(store, leaf, folder, single=single)
    return folder / leaf if single else folder


def _copy_locked(store: S3Store, entry: Entry, folder: Path) -> None:
    for name, wanted in entry.items():
        target = folder / validate_name(name)
        if not target.is_file() or file_entry(target) != wanted:
            _copy(store, name, target)
    _remove_others(folder, entry)


def _copy_changed(store: S3Store, leaf: str, folder: Path, *, single: bool) -> None:
    there = {
        info.name: [info.etag, info.size]
        for info in store.list(leaf)
        if info.name.endswith(_MODEL_SUFFIXES) and (not single or info.name == leaf)
    }
    if not there:
        address = f"{store.url}/{leaf}".rstrip("/")
        raise MissingWeights(
            f"base model {address!r}: no file of a model lies there; put a folder in diffusers' layout there"
        )
    notes_file = folder.with_suffix(".json")
    try:
        notes = json.loads(notes_file.read_bytes())
    except (OSError, ValueError):
        notes = {}
    for name, version in there.items():
        target = folder / validate_name(name)
        if notes.get(name) == version and target.is_file() and target.stat().st_size == version[1]:
            continue
        _copy(store, name, target)
        notes[name] = version
        notes_file.write_text(json.dumps(notes))
    _remove_others(folder, there)


def _copy(store: S3Store, name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    arriving = target.with_name(f"{target.name}.part")
    store.download(name, str(arriving))
    os.replace(arriving, target)


def _remove_others(folder: Path, wanted: Mapping[str, object]) -> None:
    for file in [each for each in folder.rglob("*") if each.is_file()]:
        if file.relative_to(folder).as_posix() not in wanted:
            file.unlink()


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        lock_file(lock, f"the copy of {folder.name}", seconds=_STAGING_SECONDS)
        yield
