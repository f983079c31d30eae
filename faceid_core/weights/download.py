"""Downloads files from web addresses, buckets and folders, and whole models from the Hugging Face hub.

A single file resumes where it stopped, never continues a file that changed in between, and is checked. That is written
here because no library keeps all of it: pooch and boto3 do not resume, `huggingface_hub` resumes files of the hub only.
The hub's own files come by its own client.
"""

from __future__ import annotations

import bz2
import contextlib
import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceid_core.errors import ConfigurationError, StoreError, as_configuration
from faceid_core.progress import ProgressCallback, no_progress
from faceid_core.store import S3Settings, open_store
from faceid_core.store.open import is_s3

from .catalog import KnownModel
from .lock import DamagedWeights, file_digest

if TYPE_CHECKING:
    from faceid_core.store.s3 import S3Store

_CHUNK_BYTES = 1024 * 1024
_TIMEOUT_SECONDS = 60
# Beside the files: which revision they are, and the digests that the hub states. Hidden, so no lock names it.
_NOTE = ".hub.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# Never read: the checker of Stable Diffusion's pictures, weights before averaging, other frameworks.
_NEVER = (
    "safety_checker/*",
    "feature_extractor/*",
    "*non_ema*",
    "*.bin",
    "*.ckpt",
    "*.msgpack",
    "*.h5",
    "*.onnx*",
)


class FetchFailed(StoreError):
    """A file could not be downloaded, or not wholly; what arrived is kept and the same command goes on from there."""


@dataclass(frozen=True)
class Stream:
    """What a source answers: where it begins, its pieces, how many bytes the whole file has, its version."""

    start: int
    pieces: Iterator[bytes]
    total: int | None
    version: str


@dataclass(frozen=True)
class Downloaded:
    """A file that is here now.

    Args:
        resumed_from: bytes that an earlier, interrupted call had left.
    """

    path: Path
    sha256: str
    bytes: int
    resumed_from: int = 0


def download(
    address: str,
    target: Path,
    *,
    sha256: str | None = None,
    s3: S3Settings | None = None,
    progress: ProgressCallback = no_progress,
) -> Downloaded:
    """Download a file to `target`, which appears there whole or not at all.

    Args:
        address: https:// or http://, s3://bucket/key, or a path; what ends in .bz2 is unpacked if `target` does not.
        target: the file to write; its folder is made.
        sha256: of the file as it is to lie there (unpacked); None: not known, and the caller locks what came.
        s3: how to reach a bucket.
        progress: called with the target's name, bytes so far, and all of them or None.

    Raises:
        FetchFailed: the source cannot be read, or broke off.
        ConfigurationError: a bucket refuses us: credentials, rights, region.
        DamagedWeights: what came is not what the digest says; it is removed.
    """
    packed = address.endswith(".bz2") and target.suffix != ".bz2"
    arriving = target.with_name(f"{target.name}{'.bz2' if packed else ''}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    resumed_from = _receive(address, arriving, target.name, s3, progress)
    if packed:
        arriving = _unpack(arriving, target.with_name(f"{target.name}.unpacked"), address)
    digest = file_digest(arriving)
    if sha256 is not None and digest != sha256:
        size = arriving.stat().st_size
        _drop(arriving)
        raise DamagedWeights(
            f"{target.name} from {address} is not the expected file ({size:,} bytes, sha256 {digest[:12]}…, "
            f"{sha256[:12]}… expected) and was removed; check the source, or lock another: faceid models fetch"
        )
    os.replace(arriving, target)
    _version_of(arriving).unlink(missing_ok=True)
    return Downloaded(target, digest, target.stat().st_size, resumed_from)


def _receive(
    address: str, arriving: Path, name: str, s3: S3Settings | None, progress: ProgressCallback
) -> int:
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
                progress(name, done, stream.total)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, http.client.HTTPException, StoreError) as error:
        raise FetchFailed(f"{address} cannot be read: {error}; try again, it goes on from there") from error
    if stream.total is not None and done != stream.total:
        raise FetchFailed(
            f"{address} broke off after {done:,} of {stream.total:,} bytes; try again, it goes on"
        )
    return start


def _open(address: str, start: int, version: str, s3: S3Settings | None) -> Stream:
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


def _open_s3(address: str, start: int, version: str, s3: S3Settings | None) -> Stream:
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


def s3_object(address: str, s3: S3Settings | None) -> tuple[S3Store, str]:
    """The store of an address's folder, and the object's name in it."""
    folder, _, name = address.rpartition("/")
    store = open_store(folder, s3)
    assert is_s3(store), f"{address} is no object of a bucket"
    return store, name


def _pieces(file: Any) -> Iterator[bytes]:
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


def download_from_hub(model: KnownModel, folder: Path, *, precision: str = "float32") -> None:
    """Download the files of a model that are read here.

    Args:
        model: with `hub`, and `revision` unless the newest is to be pinned.
        precision: float16 takes the fp16 variant of a pipeline.

    Raises:
        FetchFailed: the hub cannot be reached, or broke off; what came is kept.
        ConfigurationError: no such repository, revision, or it is gated.
    """
    # It takes a third of a second to import, which the other sources do without.
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    assert model.hub is not None, "a model without a repository has addresses of its own"
    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    folder.mkdir(parents=True, exist_ok=True)
    try:
        info = HfApi(endpoint=endpoint).model_info(model.hub, revision=model.revision, files_metadata=True)
        patterns = (
            [file.name for file in model.files] + [*_TOKENIZER] if model.files else _of_pipeline(precision)
        )
        never = list(_NEVER) if precision == "float16" else [*_NEVER, "*fp16*"]
        snapshot_download(
            model.hub,
            revision=info.sha,
            local_dir=folder,
            allow_patterns=patterns,
            ignore_patterns=never,
            endpoint=endpoint,
        )
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError) as error:
        raise ConfigurationError(
            f"{model.hub} at {model.revision or 'its newest revision'} cannot be had from {endpoint}: "
            f"{type(error).__name__}; check the name, accept its license there, or log in with: hf auth login"
        ) from error
    except Exception as error:  # the client lets its HTTP library's own errors through
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FetchFailed(
            f"{model.hub} cannot be read from {endpoint}: {said}; try again, it goes on"
        ) from error
    digests = {each.rfilename: each.lfs.sha256 for each in info.siblings or () if each.lfs is not None}
    note = {
        "revision": info.sha,
        "sha256": {name: sha for name, sha in digests.items() if (folder / name).is_file()},
    }
    (folder / _NOTE).write_text(json.dumps(note, sort_keys=True))


def _of_pipeline(precision: str) -> list[str]:
    """The files of a Stable Diffusion pipeline that are read."""
    middle = ".fp16" if precision == "float16" else ""
    stems = ("model", "diffusion_pytorch_model")
    weights = [f"*/{stem}{middle}{end}" for stem in stems for end in (".safetensors", "-*.safetensors")]
    return ["model_index.json", "*/*.json", "*/*.txt", *weights]


def hub_digests(folder: Path) -> dict[str, str]:
    """File -> SHA-256 as the hub states it, for the large files of a folder that came from there."""
    note = folder / _NOTE
    return json.loads(note.read_text())["sha256"] if note.exists() else {}
