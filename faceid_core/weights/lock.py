"""`models.lock`: the SHA-256 of every file of every model, so that keys are computed without loading one."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.private import READABLE_MODE, replaced, user_folder
from faceid_core.store.keys import canonical_json, is_digest, sha256_hex

FORMAT = "faceid-models-lock/1"
LOCK = "models.lock"  # beside the folders of the models that it names
SHIPPED = Path(__file__).resolve().parent.parent / "miniature" / "weights" / LOCK
# What describes a model for people and does not change what it computes.
_PROSE = {".md", ".rst", ".png", ".jpg", ".jpeg", ".gif", ".lock"}
_PROSE_STEMS = ("readme", "license", "notice")
# Below this size hashing again is quicker than keeping a note of it.
_LEAST_NOTED_BYTES = 32 * 1024 * 1024

# File -> {"sha256", "size"} of one model.
Entry = Mapping[str, Mapping]

_seen: dict[tuple, str] = {}


class DamagedWeights(MissingWeights):
    """A model's file is not the one that the lock names."""


@dataclass(frozen=True)
class ModelsLock:
    """Model -> file -> {"sha256", "size"}."""

    models: Mapping[str, Entry]
    path: str = ""

    @classmethod
    def load(cls, path: str | Path | None = None) -> ModelsLock:
        """Read a lock; None is the one shipped with the miniature models.

        Raises:
            MissingWeights: if there is no such file.
            ConfigurationError: if it is not a lock.
        """
        path = Path(path or SHIPPED)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise MissingWeights(f"{path} does not exist; write it with: faceid models lock") from None
        return parse_lock(data, str(path))

    def digest(self, name: str) -> str:
        """One SHA-256 for all files of a model.

        Raises:
            MissingWeights: if the lock does not name the model.
        """
        return entry_digest(self._files(name))

    def verify(self, name: str, folder: str | Path) -> None:
        """Check that a folder holds exactly the locked files, by reading each of them.

        Raises:
            MissingWeights: naming the file and folder, if one is absent.
            DamagedWeights: if one differs, or there is one that the lock does not know.
        """
        locked, folder = self._files(name), Path(folder)
        found = dict(_model_files(folder))
        for file, wanted in locked.items():
            if file not in found:
                raise MissingWeights(
                    f"model {name}: {file} is not in {folder}; fetch it, or lock again: faceid models lock"
                )
            size = found[file].stat().st_size
            if size != wanted["size"] or _digest_file(found[file]) != wanted["sha256"]:
                raise DamagedWeights(
                    f"model {name}: {file} in {folder} is not the locked one ({size} bytes, "
                    f"{wanted['size']} expected, sha256 {wanted['sha256'][:12]}…); bring it back, "
                    "or lock again: faceid models lock"
                )
        extra = sorted(set(found) - set(locked))
        if extra:
            raise DamagedWeights(
                f"model {name}: {extra[0]} in {folder} is not locked; remove it or: faceid models lock"
            )

    def _files(self, name: str) -> Entry:
        if name not in self.models:
            known = ", ".join(sorted(self.models)) or "nothing"
            raise MissingWeights(f"{self.path or 'the lock'} does not name model {name!r} (it names {known})")
        return self.models[name]


def parse_lock(data: bytes, path: str) -> ModelsLock:
    """A lock from its bytes; raises ConfigurationError, naming `path`, if they are none."""
    try:
        record = json.loads(data)
    except ValueError as error:
        raise ConfigurationError(
            f"{path} is not JSON ({error}); write it with: faceid models lock"
        ) from error
    if (
        not isinstance(record, dict)
        or record.get("format") != FORMAT
        or not _well_formed(record.get("models"))
    ):
        raise ConfigurationError(f"{path} is not of the format {FORMAT}; write it with: faceid models lock")
    return ModelsLock(record["models"], path)


@cache
def shipped_lock() -> ModelsLock:
    """The lock of the models that ship with the project."""
    return ModelsLock.load()


def entry_digest(entry: Entry) -> str:
    """One SHA-256 for all files of a model, as it stands in stage keys."""
    return sha256_hex(canonical_json(entry))


def lock_text(models: Mapping[str, Entry]) -> str:
    """What stands in the lock of these models."""
    return json.dumps({"format": FORMAT, "models": models}, indent=1, sort_keys=True) + "\n"


def write_lock(path: str | Path, folders: Mapping[str, str | Path]) -> ModelsLock:
    """Lock models as they lie in their folders, keeping the entries of models that are not named here.

    Args:
        path: the lock's file; made if absent.
        folders: model -> folder.

    Returns:
        The lock as written.

    Raises:
        MissingWeights: if a folder holds no model file.
    """
    path = Path(path)
    models = dict(ModelsLock.load(path).models) if path.exists() else {}
    models.update({name: lock_entry(folder) for name, folder in folders.items()})
    _replace_file(path, lock_text(models))
    return ModelsLock.load(path)


def lock_entry(folder: str | Path, *, noted: bool = False) -> dict[str, dict]:
    """File -> {"sha256", "size"} of one model's folder.

    Raises:
        MissingWeights: if there is no folder, or no model file in it.
    """
    files = _model_files(Path(folder))
    if not files:
        raise MissingWeights(f"{folder} holds no model files; check the folder's name")
    digest = _digest_noted if noted else _digest_file
    return {name: {"sha256": digest(file), "size": file.stat().st_size} for name, file in files}


def file_entry(file: str | Path) -> dict:
    """{"sha256", "size"} of one file of a model; the digest of a large one is noted as in `digest_folder`."""
    return {"sha256": _digest_noted(Path(file)), "size": Path(file).stat().st_size}


def digest_folder(folder: str | Path) -> str:
    """The digest that `ModelsLock.digest` would give to this folder, for models outside any lock.

    Large files are hashed once and noted under the user's cache by path, size and time of change.

    Raises:
        MissingWeights: if there is no folder, or no model file in it.
    """
    return entry_digest(lock_entry(folder, noted=True))


def _model_files(folder: Path) -> list[tuple[str, Path]]:
    files = []
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        prose = file.suffix.lower() in _PROSE or file.name.lower().startswith(_PROSE_STEMS)
        if not hidden and not prose and file.is_file():
            files.append((name.as_posix(), file))
    return files


def file_digest(file: Path) -> str:
    """SHA-256 of a file, read in any case."""
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _mark(file: Path) -> tuple:
    status = file.stat()
    return str(file.resolve()), status.st_size, status.st_mtime_ns


def _digest_file(file: Path) -> str:
    mark = _mark(file)
    if mark not in _seen:
        _seen[mark] = file_digest(file)
    return _seen[mark]


def _digest_noted(file: Path) -> str:
    mark = _mark(file)
    if mark[1] < _LEAST_NOTED_BYTES:
        return _digest_file(file)
    notes_file = cache_folder() / "file-digests.json"
    try:
        notes = json.loads(notes_file.read_bytes())
    except (OSError, ValueError):
        notes = {}
    name = sha256_hex(canonical_json(mark))
    if not isinstance(notes, dict) or not is_digest(notes.get(name)):
        notes = {**(notes if isinstance(notes, dict) else {}), name: _digest_file(file)}
        with contextlib.suppress(OSError):  # a note saves time only
            _replace_file(notes_file, json.dumps(notes))
    return notes[name]


def cache_folder() -> Path:
    """Where this project may keep files of the user's that can be made again."""
    return user_folder("XDG_CACHE_HOME", ".cache") / "faceid"


def _replace_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path, READABLE_MODE) as file:
        file.write(text.encode())


def _well_formed(models: object) -> bool:
    return isinstance(models, dict) and all(
        isinstance(files, dict)
        and all(
            isinstance(row, dict) and is_digest(row.get("sha256")) and isinstance(row.get("size"), int)
            for row in files.values()
        )
        for files in models.values()
    )
