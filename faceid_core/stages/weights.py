"""Which weights a configuration uses, and their digests, from the lock file or from the folder itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from faceid_core.config import NightlyConfig
from faceid_core.diffusion.describe import MINIATURE, describe
from faceid_core.diffusion.sources import BaseFiles, find_base
from faceid_core.errors import ConfigurationError
from faceid_core.miniature.scorer_sets import SELECTION, SETS
from faceid_core.store.models_lock import SHIPPED, ModelsLock


@dataclass(frozen=True)
class FoundWeights:
    """Digests by role, the picture side of the base model in pixels, and whether it reads pictures' sizes (SDXL)."""

    digests: Mapping[str, str]
    base_resolution: int
    base_reads_sizes: bool


@cache
def shipped_lock() -> ModelsLock:
    """The lock of the models that ship with the project."""
    return ModelsLock.load()


def find_weights(config: NightlyConfig) -> FoundWeights:
    """Digest every model that the configuration uses, without loading one.

    Raises:
        ConfigurationError: the base model's folder is not one.
        MissingWeights: a file of a shipped model is absent.
    """
    base = config.base_model
    files = base_files(config)
    lock = shipped_lock()
    # The score stages' roles mean the configured set's models; the photos' detector and parser have their own.
    digests = {role: lock.digest(name) for role, name in SETS[config.score.scorers].items()}
    if config.faces.backend != "miniature":
        from faceid_core.faces.backends import backend_digest

        digests["face_detector"] = digests["face_parser"] = backend_digest(config.faces.backend)
    else:
        photos = SETS[SELECTION]
        digests["face_detector"] = lock.digest(photos["detector"])
        digests["face_parser"] = lock.digest(photos["parser"])
    digests["base"] = lock.digest("pipeline") if base.source == MINIATURE else files.digest()
    if base.digest not in ("", digests["base"]):
        raise ConfigurationError(
            f"the files of base model {base.source!r} have digest {digests['base']}, base_model.digest asks for "
            f"{base.digest}; bring the right files, or correct the digest"
        )
    about = describe(files.folder, name=base.source, digest=digests["base"], precision=base.precision)
    return FoundWeights(digests, about.resolution, about.pooled_width > 0)


def base_files(config: NightlyConfig) -> BaseFiles:
    """The configured base model's files on this machine; raises as `find_base`."""
    base = config.base_model
    return find_base(base.source, layout=base.layout, weights=base.weights, s3=config.s3.model_dump())


def verify_shipped(planned: Mapping[str, str]) -> None:
    """Check that shipped models' files are those of the lock, and the lock's those that the run was planned with.

    Args:
        planned: model's name -> the digest that stands in the stage keys.

    Raises:
        ConfigurationError: the models were exchanged while the run was going on.
    """
    for name, digest in planned.items():
        _require_planned(name, shipped_lock().digest(name), digest)
        shipped_lock().verify(name, SHIPPED.parent / name)


def _require_planned(what: str, found: str, planned: str) -> None:
    if found != planned:
        raise ConfigurationError(
            f"the files of {what} changed since the run was planned; start the run again"
        )


def verify_base(files: BaseFiles, digest: str) -> None:
    """Check, before a base model is loaded, that its files are those of the digest."""
    if files.source == MINIATURE:
        _require_planned("the miniature pipeline", shipped_lock().digest("pipeline"), digest)
        shipped_lock().verify("pipeline", files.folder)
    else:
        _require_planned(str(files.checkpoint or files.folder), files.digest(), digest)
