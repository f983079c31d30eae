"""Brings a base model from a bucket to this machine, once for each version of each file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from faceid_core.errors import MissingWeights
from faceid_core.store.file_lock import lock_file
from faceid_core.store.keys import sha256_hex
from faceid_core.store.objects import validate_name
from faceid_core.weights.lock import cache_folder

_SUFFIXES = (".json", ".txt", ".safetensors")
_STAGING_SECONDS = 3 * 3600.0  # for another process to bring a large model over a slow line


def stage(url: str, s3: Mapping[str, object]) -> Path:
    """Bring what lies at an address, and say where it lies now.

    A file whose ETag and size are those of last time is not read again; one that is gone from the bucket goes here too.
    Several processes of one machine take turns.

    Args:
        url: `s3://bucket/prefix` of a folder in diffusers' layout, or of one `.safetensors` file.
        s3: as `config.s3` has it.

    Returns:
        The folder, or the file.

    Raises:
        MissingWeights: nothing lies there.
        StoreError: the bucket cannot be read.
    """
    from faceid_core.stages.models import open_configured_store
    from faceid_core.store import open_store

    url = url.rstrip("/")
    single = url.endswith(".safetensors")
    prefix, _, leaf = url.rpartition("/") if single else (url, "", "")
    store = open_configured_store(prefix, s3) if s3 else open_store(prefix)
    place = cache_folder() / "base-models" / sha256_hex(url.encode())[:32]
    with _alone(place):
        wanted = {
            info.name: [info.etag, info.size]
            for info in store.list(leaf)
            if info.name.endswith(_SUFFIXES) and (not single or info.name == leaf)
        }
        if not wanted:
            raise MissingWeights(
                f"base model {url!r}: no file of a model lies there; put a folder in diffusers' layout there"
            )
        _bring(store, wanted, place)
    return place / leaf if single else place


def _bring(store, wanted: Mapping[str, list], place: Path) -> None:
    notes_file = place.with_suffix(".json")
    try:
        notes = json.loads(notes_file.read_bytes())
    except (OSError, ValueError):
        notes = {}
    for name, version in wanted.items():
        target = place / validate_name(name)
        if notes.get(name) == version and target.is_file() and target.stat().st_size == version[1]:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        arriving = target.with_name(f"{target.name}.part")
        store.download(name, str(arriving))
        os.replace(arriving, target)
        notes[name] = version
        notes_file.write_text(json.dumps(notes))
    for file in [each for each in place.rglob("*") if each.is_file()]:
        if file.relative_to(place).as_posix() not in wanted:
            file.unlink()


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    place.mkdir(parents=True, exist_ok=True)
    with open(place.with_suffix(".lock"), "w") as lock:
        lock_file(lock, f"the copy of {place.name}", seconds=_STAGING_SECONDS)
        yield
