"""Which weights a configuration uses, and their digests, from the lock file or from the folder itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError
from faceid_core.evaluate import photographs
from faceid_core.evaluate.photographs import Chosen
from faceid_core.weights.base_model import BaseFiles, find_base
from faceid_core.weights.describe import MINIATURE, Description, describe
from faceid_core.weights.locate import WeightsPlace
from faceid_core.weights.lock import SHIPPED, ModelsLock
from faceid_core.weights.miniature_sets import SELECTION, SETS


@dataclass(frozen=True)
class FoundWeights:
    """What a configuration's models are.

    Attributes:
        digests: by role.
        base: what the base model is.
        tokenizers: text encoder -> the folder of its tokenizer.
        names: of scorers by role, for tables.
    """

    digests: Mapping[str, str]
    base: Description
    tokenizers: Mapping[str, Path]
    names: Mapping[str, str] = field(default_factory=dict)


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
    chosen = chosen_scorers(config)
    if chosen is None:
        digests = {role: lock.digest(name) for role, name in SETS[config.score.scorers].items()}
    else:
        digests = chosen.digests(asked_for(config))
    if config.faces.backend != "miniature":
        from faceid_core.faces.backends import backend_digest, parser_digest

        faces = config.faces
        digests["face_detector"] = backend_digest(
            faces.backend, model=faces.detector, weights=config.weights, s3=config.s3.model_dump()
        )
        digests["face_parser"] = parser_digest(
            faces.parser, faces.parser_source, WeightsPlace(config.weights, config.s3.model_dump())
        )
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
    tokenizers = {encoder: files.folder / tokenizer for encoder, tokenizer in about.encoders.items()}
    return FoundWeights(digests, about, tokenizers, names_of(config))


def base_files(config: NightlyConfig) -> BaseFiles:
    """The configured base model's files on this machine; raises as `find_base`."""
    base = config.base_model
    weights = base_weights(config)
    return find_base(base.source, layout=base.layout, weights=weights, s3=config.s3.model_dump())


def base_weights(config: NightlyConfig) -> str:
    """Where hub models lie: the base model's own folder, or the place of all weights; empty for the hub's cache."""
    return config.base_model.weights or config.weights


def face_models(config: NightlyConfig) -> dict[str, object]:
    """What `faces.backends.load_faces` is to load for photographs."""
    faces = config.faces
    return {
        "model": faces.detector,
        "weights": config.weights,
        "s3": config.s3.model_dump(),
        "parser": faces.parser,
        "parser_source": faces.parser_source,
    }


def chosen_scorers(config: NightlyConfig) -> Chosen | None:
    """The models that score photographs; None for the miniature's sets."""
    score = config.score
    if not score.of_photographs:
        return None
    selecting = score.scorers == photographs.SELECTION
    return Chosen(
        name=score.scorers,
        recognizers=(score.selection_recognizer,) if selecting else score.recognizers,
        clips=(score.selection_clip,) if selecting else score.clips,
        place=WeightsPlace(config.weights, config.s3.model_dump()),
    )


def names_of(config: NightlyConfig) -> dict[str, str]:
    """Role of a photographs' scorer -> the model's name and version, for tables; empty for the miniature's sets."""
    chosen = chosen_scorers(config)
    if chosen is None:
        return {}
    return {**chosen.names(), **_face_names(config)}


def _face_names(config: NightlyConfig) -> dict[str, str]:
    """Names of the photos' detector and parser, with the version of the code that asks the detector."""
    if config.faces.backend == MINIATURE:
        return {"detector": "miniature-detector", "parser": "miniature-parser"}
    from faceid_core.faces.deepface_backend import DeepFaceDetector

    return {
        "detector": f"deepface-{config.faces.detector}@{DeepFaceDetector.version}",
        "parser": config.faces.parser,
    }


def asked_for(config: NightlyConfig) -> set[str]:
    """The roles without which the configured metrics cannot be measured."""
    from faceid_core.evaluate.metrics import METRICS

    return {
        role
        for metric in config.score.metrics
        for role in photographs.key_roles(metric, METRICS[metric].roles).values()
    }


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


def verify_faces(backend: str, models: Mapping[str, object], planned: Mapping[str, str]) -> None:
    """Check that the photographs' detector and parser are those that the run was planned with.

    Args:
        backend: of the faces, not the miniature's.
        models: "model", "weights", "s3", "parser" and "parser_source", as `faces.backends.load_faces` takes them.
        planned: role -> the digest that stands in the stage keys; roles that are absent are not checked.
    """
    from faceid_core.faces.backends import backend_digest, parser_digest

    if "face_detector" in planned and models:
        found = backend_digest(backend, model=models["model"], weights=models["weights"], s3=models["s3"])
        _require_planned(f"the face detector {models['model']}", found, planned["face_detector"])
    if "face_parser" in planned and models:
        found = parser_digest(
            models["parser"], models["parser_source"], WeightsPlace(models["weights"], models["s3"])
        )
        _require_planned(f"the face parser {models['parser']}", found, planned["face_parser"])


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
