"""Brings models into a folder or a bucket of weights, checked; an interrupted fetch is resumed by the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from faceid_core.errors import Conflict, FaceidError, MissingWeights, ObjectMissing, StoreError
from faceid_core.progress import ProgressCallback, no_progress
from faceid_core.store.objects import validate_name

from .catalog import KnownFile, KnownModel
from .deepface_files import find_files
from .download import Downloaded, FetchFailed, download, download_from_hub, hub_digests, s3_object
from .lock import (
    LOCK,
    DamagedWeights,
    Entry,
    ModelsLock,
    cache_folder,
    entry_digest,
    lock_entry,
    lock_text,
    parse_lock,
    write_lock,
)
from .place import WeightsPlace
from .published_files import check_file

_LOCK_ATTEMPTS = 5


@dataclass(frozen=True)
class Fetched:
    """What became of one model.

    Args:
        state: brought now, here already, or failed.
        resumed_from: bytes that an earlier, interrupted call had left.
        sentence: where it came from, or what went wrong.
    """

    name: str
    state: Literal["brought", "here", "failed"]
    bytes: int = 0
    resumed_from: int = 0
    digest: str = ""
    sentence: str = ""


def fetch(
    models: Sequence[KnownModel],
    to: WeightsPlace,
    *,
    origin: WeightsPlace | None = None,
    progress: ProgressCallback = no_progress,
    precision: str = "float32",
) -> list[Fetched]:
    """Bring models; a failure of one does not stop the others.

    Args:
        to: a folder, or a bucket, which is filled by way of this machine's cache.
        origin: take them from this place, whose lock gives the digests, not from where they were published.
        progress: called with a file's name, bytes so far, and all of them or None.
        precision: of the base model: float16 brings the fp16 variant.
    """
    return [_fetch_one(model, to, origin, progress, precision) for model in models]


def _fetch_one(
    model: KnownModel,
    to: WeightsPlace,
    origin: WeightsPlace | None,
    progress: ProgressCallback,
    precision: str,
) -> Fetched:
    bucket = to.is_bucket
    folder = (cache_folder() / "fetched" if bucket else Path(to.source)) / model.folder
    try:
        wanted = None if origin is None else _origin_entry(model, origin)
        if bucket:
            there = _bucket_entry(model, to)
            if there is not None and (wanted is None or there == wanted):
                return Fetched(
                    model.folder, "here", _size(there), digest=entry_digest(there), sentence=to.source
                )
        here = _folder_entry(model, folder)
        if here is not None and (wanted is None or here == wanted):
            state, brought = "here", []
        else:
            state, brought = "brought", _download_all(model, folder, wanted, origin, progress, precision)
        entry = _locked(model, folder)
        if bucket:
            _upload(model, folder, entry, to)
            state = "brought"
    except FaceidError as error:
        return Fetched(model.folder, "failed", sentence=str(error))
    resumed_from = sum(each.resumed_from for each in brought)
    return Fetched(
        model.folder, state, _size(entry), resumed_from, entry_digest(entry), to.address(model.folder)
    )


def _size(entry: Entry) -> int:
    return sum(row["size"] for row in entry.values())


def _download_all(
    model: KnownModel,
    folder: Path,
    wanted: Entry | None,
    origin: WeightsPlace | None,
    progress: ProgressCallback,
    precision: str,
) -> list[Downloaded]:
    if wanted is not None:
        assert origin is not None, "what is wanted was read from the origin's lock"
        return [
            download(
                origin.address(model.folder, name),
                folder / validate_name(name),
                sha256=row["sha256"],
                s3=origin.s3,
                progress=progress,
            )
            for name, row in wanted.items()
        ]
    if model.hub is not None:
        download_from_hub(model, folder, precision=precision)
        return []
    return [_download_file(model, file, folder / file.name, progress) for file in model.files]


def _download_file(
    model: KnownModel, file: KnownFile, target: Path, progress: ProgressCallback
) -> Downloaded:
    """A published file: from a package or DeepFace's own folder if it lies there, or else from the net."""
    try:
        lying = [str(path) for path in find_files(model) if path.name == file.name]
    except MissingWeights:
        lying = []
    faults = []
    for address in [*lying, *file.urls]:
        try:
            return download(address, target, sha256=file.sha256, progress=progress)
        except (FetchFailed, DamagedWeights) as error:
            faults.append(str(error))
    raise FetchFailed("; ".join(faults))


def _folder_entry(model: KnownModel, folder: Path) -> Entry | None:
    """The lock's entry of a folder whose files are all as locked; None where something is to be done."""
    lock = folder.parent / LOCK
    if not lock.exists() or model.folder not in (models := ModelsLock.load(lock).models):
        return None
    try:
        for name, row in models[model.folder].items():
            check_file(model.folder, folder / validate_name(name), row)
    except MissingWeights:
        return None
    return models[model.folder]


def _locked(model: KnownModel, folder: Path) -> Entry:
    """Check what came against what is published, and lock it.

    Raises:
        DamagedWeights: a file is not the published one.
        MissingWeights: one did not come.
    """
    entry = lock_entry(folder)
    published = {file.name: file.sha256 for file in model.files}
    if model.hub is not None:
        published |= hub_digests(folder)
    for name, sha256 in published.items():
        if name not in entry:
            raise MissingWeights(
                f"{model.folder}: {name} did not come; look at the source, or name another revision"
            )
        if sha256 is not None and entry[name]["sha256"] != sha256:
            (folder / name).unlink()
            raise DamagedWeights(
                f"{model.folder}: {name} is not the published file and was removed; fetch it again"
            )
    return write_lock(folder.parent / LOCK, {model.folder: folder}).models[model.folder]


def _origin_entry(model: KnownModel, origin: WeightsPlace) -> Entry:
    """What the place that models come from says of one."""
    address = origin.address(LOCK)
    copy = cache_folder() / "origin" / LOCK
    copy.unlink(missing_ok=True)
    download(address, copy, s3=origin.s3)
    models = parse_lock(copy.read_bytes(), address).models
    if model.folder not in models:
        raise MissingWeights(
            f"{address} does not name {model.folder}; it names {', '.join(sorted(models)) or 'nothing'}"
        )
    return models[model.folder]


def _bucket_entry(model: KnownModel, to: WeightsPlace) -> Entry | None:
    """The entry in the bucket's lock, if all its files are there at their sizes."""
    store, name = s3_object(to.address(LOCK), to.s3)
    try:
        entry = parse_lock(store.get(name), to.address(LOCK)).models.get(model.folder)
    except ObjectMissing:
        return None
    for file, row in (entry or {}).items():
        info = store.head(f"{model.folder}/{file}")
        if info is None or info.size != row["size"]:
            return None
    return entry


def _upload(model: KnownModel, folder: Path, entry: Entry, to: WeightsPlace) -> None:
    """The files first, then their entry in the lock, by compare-and-swap: two may fetch at once."""
    store, name = s3_object(to.address(LOCK), to.s3)
    for file in entry:
        store.put_file(f"{model.folder}/{file}", str(folder / file))
    for _ in range(_LOCK_ATTEMPTS):
        try:
            data, etag = store.get_with_etag(name)
            models = dict(parse_lock(data, to.address(LOCK)).models)
        except ObjectMissing:
            models, etag = {}, None
        try:
            store.replace_if_match(name, lock_text({**models, model.folder: dict(entry)}).encode(), etag)
            return
        except Conflict:
            continue
    raise StoreError(f"{to.address(LOCK)} kept changing; fetch again")
