"""Which weights a configuration uses, and their digests, from the lock file or from the folder itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from faceid_core.config import NightlyConfig
from faceid_core.diffusion.describe import MINIATURE, describe, source_folder
from faceid_core.errors import ConfigurationError
from faceid_core.miniature.scorer_sets import SELECTION, SETS
from faceid_core.store.models_lock import SHIPPED, ModelsLock, digest_folder


@dataclass(frozen=True)
class FoundWeights:
    """Digests by role, and the picture side of the base model in pixels."""

    digests: Mapping[str, str]
    base_resolution: int


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
    source = config.base_model.source
    folder = source_folder(source)
    lock = shipped_lock()
    # The score stages' roles mean the configured set's models; the photos' detector and parser have their own.
    digests = {role: lock.digest(name) for role, name in SETS[config.score.scorers].items()}
    if config.faces.backend != "miniature":
        from faceid_core.faces.backends import backend_digest, parser_digest

        faces = config.faces
        digests["face_detector"] = backend_digest(faces.backend, model=faces.detector)
        digests["face_parser"] = parser_digest(faces.parser, faces.parser_source)
    else:
        photos = SETS[SELECTION]
        digests["face_detector"] = lock.digest(photos["detector"])
        digests["face_parser"] = lock.digest(photos["parser"])
    digests["base"] = lock.digest("pipeline") if source == MINIATURE else digest_folder(folder)
    about = describe(folder, name=source, digest=digests["base"], precision=config.base_model.precision)
    return FoundWeights(digests, about.resolution)


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


def verify_faces(backend: str, models: Mapping[str, str], planned: Mapping[str, str]) -> None:
    """Check that the photographs' detector and parser are those that the run was planned with.

    Args:
        backend: of the faces, not the miniature's.
        models: "model", "parser" and "parser_source", as `faces.backends.load_faces` takes them.
        planned: role -> the digest that stands in the stage keys; roles that are absent are not checked.
    """
    from faceid_core.faces.backends import backend_digest, parser_digest

    if "face_detector" in planned and models:
        found = backend_digest(backend, model=models["model"])
        _require_planned(f"the face detector {models['model']}", found, planned["face_detector"])
    if "face_parser" in planned and models:
        found = parser_digest(models["parser"], models["parser_source"])
        _require_planned(f"the face parser {models['parser']}", found, planned["face_parser"])


def _require_planned(what: str, found: str, planned: str) -> None:
    if found != planned:
        raise ConfigurationError(
            f"the files of {what} changed since the run was planned; start the run again"
        )


def verify_base(source: str, digest: str) -> None:
    """Check, before a base model is loaded, that its files are those of the digest."""
    folder = source_folder(source)
    if source == MINIATURE:
        _require_planned("the miniature pipeline", shipped_lock().digest("pipeline"), digest)
        shipped_lock().verify("pipeline", folder)
    else:
        _require_planned(str(folder), digest_folder(folder), digest)
