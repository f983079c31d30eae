"""Which weights a configuration uses, and their digests, from the lock file or from the folder itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError
from faceid_core.store.models_lock import ModelsLock, digest_folder

MINIATURE_ROOT = Path(__file__).parent.parent / "miniature" / "weights"
MINIATURE_ROLES = ("detector", "parser", "recogniser", "image_text")


@dataclass(frozen=True)
class FoundWeights:
    """Digests by role, and the picture side of the base model in pixels."""

    digests: Mapping[str, str]
    base_resolution: int


@cache
def shipped_lock() -> ModelsLock:
    """The lock of the models that ship with the project."""
    return ModelsLock.load(MINIATURE_ROOT / "models.lock")


def base_folder(source: str) -> Path:
    """The folder of a base model.

    Raises:
        ConfigurationError: there is no such folder.
    """
    if source == "miniature":
        return MINIATURE_ROOT / "pipeline"
    folder = Path(source).expanduser()
    if not (folder / "model_index.json").is_file():
        raise ConfigurationError(
            f"base_model.source: {source!r} is not 'miniature' and holds no model_index.json; "
            "give a folder in the diffusers layout (faceid never downloads during a run)"
        )
    return folder


def find_weights(config: NightlyConfig) -> FoundWeights:
    """Digest every model that the configuration uses, without loading one.

    Raises:
        ConfigurationError: the base model's folder is not one.
        MissingWeights: a file of a shipped model is absent.
    """
    from faceid_core.diffusion.describe import describe_folder

    folder = base_folder(config.base_model.source)
    lock = shipped_lock()
    digests = {role: lock.digest(role) for role in MINIATURE_ROLES}
    if config.faces.backend != "miniature":
        from faceid_core.faces.backends import backend_digest

        digests["face_detector"] = digests["face_parser"] = backend_digest(config.faces.backend)
    else:
        digests["face_detector"], digests["face_parser"] = digests["detector"], digests["parser"]
    digests["base"] = lock.digest("pipeline") if config.base_model.source == "miniature" else digest_folder(folder)
    return FoundWeights(digests, describe_folder(folder).resolution)


def verify_base(source: str, digest: str) -> None:
    """Check, before a base model is loaded, that its files are those of the digest."""
    folder = base_folder(source)
    if source == "miniature":
        shipped_lock().verify("pipeline", folder)
    elif digest_folder(folder) != digest:
        raise ConfigurationError(f"the files in {folder} changed since the run was planned; start the run again")
