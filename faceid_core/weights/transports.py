"""Brings one file from a web address, a bucket or a folder: in pieces, going on where it stopped, checked at the end."""

from __future__ import annotations

import bz2
import contextlib
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from faceid_core.errors import StoreError, as_configuration
from faceid_core.weights.lock import DamagedWeights

_CHUNK_BYTES = 1024 * 1024
_TIMEOUT_SECONDS = 60
Tell = Callable[[int, int | None], None]


class FetchFailed(StoreError):
    """A file could not be brought, or not wholly; what arrived is kept and the same command goes on from there."""


@dataclass(frozen=True)
class Stream:
    """What a source answers: where it begins, its pieces, how many bytes the whole file has, its version."""

    start: int
    pieces: Iterator[bytes]
    total: int | None
    version: str


@dataclass(frozen=True)
class Brought:
    """A file that is here now.

    Args:
        went_on_from: bytes that an earlier, interrupted call had left.
    """

    path: Path
    sha256: str
    bytes: int
    went_on_from: int = 0


def bring(
    address: str,
    target: Path,
    *,
    sha256: str | None = None,
    s3: Mapping[str, object] | None = None,
    tell: Tell = lambda done, total: None,
) -> Brought:
    """Bring a file to `target`, which appears there whole or not at all.

    Args:
        address: https:// or http://, s3://bucket/key, or a path; what ends in .bz2 is unpacked if `target` does not.
        target: the file to write; its folder is made.
        sha256: of the file as it is to lie there (unpacked); None: not known, and the caller locks what came.
        s3: as `config.s3` has it.
        tell: called with (bytes so far, all of them or None).

    Raises:
        FetchFailed: the source cannot be read, or broke off.
        ConfigurationError: a bucket refuses us: credentials, rights, region.
        DamagedWeights: what came is not what the digest says; it is removed.
    """
    packed = address.endswith(".bz2") and target.suffix != ".bz2"
    arriving = target.with_name(f"{target.name}{'.bz2' if packed else ''}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    came_before = _receive(address, arriving, s3 or {}, tell)
    if packed:
        arriving = _unpack(arriving, target.with_name(f"{target.name}.unpacked"), address)
    digest = _sha256(arriving)
    if sha256 is not None and digest != sha256:
        size = arriving.stat().st_size
        _drop(arriving)
        raise DamagedWeights(
            f"{target.name} from {address} is not the expected file ({size:,} bytes, sha256 {digest[:12]}…, "
            f"{sha256[:12]}… expected) and was removed; check the source, or lock another: faceid models fetch"
        )
    os.replace(arriving, target)
    _version_of(arriving).unlink(missing_ok=True)
    return Brought(target, digest, target.stat().st_size, came_before)


def _receive(address: str, arriving: Path, s3: Mapping[str, object], tell: Tell) -> int:
    """Append what is missing of a file; returns how much was there before."""
    have = arriving.stat().st_size if arriving.exists() else 0
    noted = _version_of(arriving)
    version = noted.read_text() if have and noted.exists() else ""
    try:
        with as_configuration():
            stream = _open(address, have, version, s3)
        start = stream.start
        noted.write_text(stream.version)
        with open(arriving, "r+b" if start else "wb") as file:
            file.truncate(start)
            file.seek(start)
            done = start
            for piece in stream.pieces:
                file.write(piece)
                done += len(piece)
                tell(done, stream.total)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, http.client.HTTPException, StoreError) as error:
        raise FetchFailed(f"{address} cannot be read: {error}; try again, it goes on from there") from error
    if stream.total is not None and done != stream.total:
        raise FetchFailed(
            f"{address} broke off after {done:,} of {stream.total:,} bytes; try again, it goes on"
        )
    return start


def _open(address: str, start: int, version: str, s3: Mapping[str, object]) -> Stream:
    if address.startswith(("http://", "https://")):
        return _open_web(address, start, version)
    if address.startswith("s3://"):
        return _open_s3(address, start, version, s3)
    return _open_file(Path(address), start, version)


def _open_web(address: str, start: int, version: str) -> Stream:
    headers = {"User-Agent": "faceid", "Accept-Encoding": "identity"}
    if start and version:
        # Without the version a changed file would be glued to the old one's beginning.
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    try:
        answer = urllib.request.urlopen(
            urllib.request.Request(address, headers=headers), timeout=_TIMEOUT_SECONDS
        )
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing is left of it, or it became shorter: from the beginning
            return _open_web(address, 0, "")
        raise
    begins = start if answer.status == 206 else 0
    length = answer.headers.get("Content-Length")
    total = begins + int(length) if length else None
    etag = answer.headers.get("ETag", "")
    strong = "" if etag.startswith("W/") else etag
    return Stream(begins, _pieces(answer), total, strong or answer.headers.get("Last-Modified", ""))


def _open_s3(address: str, start: int, version: str, s3: Mapping[str, object]) -> Stream:
    store, name = s3_object(address, s3)
    info = store.head(name)
    if info is None:
        any(store.list(name))  # where it is the bucket that is missing, this says so
        raise StoreError("there is no such object")
    begins = start if version == info.etag and start < info.size else 0
    return Stream(begins, store.read_from(name, begins, info.etag), info.size, info.etag)


def _open_file(path: Path, start: int, version: str) -> Stream:
    status = path.stat()
    now = f"{status.st_size}-{status.st_mtime_ns}"
    begins = start if version == now and start < status.st_size else 0
    file = open(path, "rb")  # noqa: SIM115 (closed when its pieces are read)
    file.seek(begins)
    return Stream(begins, _pieces(file), status.st_size, now)


def s3_object(address: str, s3: Mapping[str, object]):
    """The store of an address's folder, and the object's name in it."""
    from faceid_core.stages.models import open_configured_store
    from faceid_core.store import open_store

    folder, _, name = address.rpartition("/")
    return open_configured_store(folder, s3) if s3 else open_store(folder), name


def _pieces(file) -> Iterator[bytes]:
    with contextlib.closing(file):
        while piece := file.read(_CHUNK_BYTES):
            yield piece


def _unpack(packed: Path, unpacked: Path, address: str) -> Path:
    try:
        with bz2.open(packed) as source, open(unpacked, "wb") as file:
            while piece := source.read(_CHUNK_BYTES):
                file.write(piece)
    except (OSError, EOFError) as error:
        _drop(packed)
        raise DamagedWeights(
            f"{address} is no usable bz2 file ({error}) and was removed; try again"
        ) from error
    _drop(packed)
    return unpacked


def _version_of(arriving: Path) -> Path:
    return arriving.with_name(arriving.name + ".version")


def _drop(arriving: Path) -> None:
    arriving.unlink(missing_ok=True)
    _version_of(arriving).unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
