"""Finds, checks and digests the models that a configuration needs. Planner, workers, doctor and fetch all ask here.

Nothing is downloaded from the net: what is missing is an error that names the file and the command that brings it. What
lies in a bucket of weights is one's own, and is copied to this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.store.keys import canonical_json, sha256_hex

from .base_model import BaseFiles, find_base
from .catalog import SEGFORMER_FILES, KnownModel
from .deepface_files import detector_files, detector_package_version, find_files, second_look_files
from .describe import MINIATURE, Description, describe
from .hub import HubModel
from .lock import SHIPPED, DamagedWeights, entry_digest, file_entry, shipped_lock
from .place import WeightsPlace
from .published_files import check_file, entry_of, paths_of
from .required import BASE, ModelRef, base_model, published, required

# Size of jonathandinu/face-parsing's model.safetensors, for the message about a missing one: 84.6 million parameters.
_USUAL_SEGFORMER_MEGABYTES = 340


@dataclass(frozen=True)
class LocalModel:
    """A model whose files were found.

    Args:
        name: as `ModelRef.name`.
        digest: one SHA-256 of what decides its answers: its files and the version of the code that asks it.
        paths: its files, or its folder; of a base model in a single file its layout's folder, then the file. Empty
            where it has none, and for scorers that were not checked.
    """

    name: str
    digest: str
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ResolvedModels:
    """The models of a configuration.

    Attributes:
        digests: role -> digest.
        base: what the base model is.
        tokenizers: text encoder -> the folder of its tokenizer.
        titles: of photographs' scorers -> name and version for tables, by the role's name in a metric's stage key; empty
            for the miniature's sets.
    """

    digests: Mapping[str, str]
    base: Description
    tokenizers: Mapping[str, Path]
    titles: Mapping[str, str]


def resolve(ref: ModelRef, *, planned: str = "", check: bool = False) -> LocalModel:
    """Find a model and compute its digest, without loading it.

    Args:
        planned: the digest that stands in the stage keys of a run, from a worker that is about to load the model;
            implies `check`.
        check: copy its files to this machine where they lie in a bucket, and compare each with the lock. Without it
            the lock's word is enough, so that a driver plans without reading gigabytes.

    Raises:
        MissingWeights: a file is absent; the text names it, its size where known, and what brings it.
        DamagedWeights: a file is not the one that was published, locked, or (a scorer's) planned.
        ConfigurationError: the model cannot be used, or is not the planned one.
    """
    model = _RESOLVERS[ref.kind](ref, check or bool(planned))
    if planned and model.digest != planned:
        if ref.kind in ("scorer", "published"):
            raise DamagedWeights(
                f"the weights of {ref.role} changed since the run was planned; start it again"
            )
        raise ConfigurationError(
            f"the files of {_called(ref, model)} changed since the run was planned; start the run again"
        )
    return model


def resolve_all(config: NightlyConfig) -> ResolvedModels:
    """Digest every model that the configuration uses, without loading one.

    Raises:
        ConfigurationError: a model cannot be used, or the base model is not the one of `base_model.digest`.
        MissingWeights: a file is absent.
    """
    refs = required(config)
    found = {ref.role: resolve(ref) for ref in refs}
    base, source = found[BASE], config.base_model
    if source.digest not in ("", base.digest):
        raise ConfigurationError(
            f"the files of base model {source.source!r} have digest {base.digest}, base_model.digest asks for "
            f"{source.digest}; bring the right files, or correct the digest"
        )
    folder = base.paths[0]
    about = describe(folder, name=source.source, digest=base.digest, precision=source.precision)
    return ResolvedModels(
        digests={role: model.digest for role, model in found.items()},
        base=about,
        tokenizers={encoder: folder / tokenizer for encoder, tokenizer in about.encoders.items()},
        titles={ref.role.removeprefix("face_"): ref.title for ref in refs if ref.title}
        if config.score.of_photographs
        else {},
    )


def base_files(config: NightlyConfig) -> BaseFiles:
    """The configured base model's files on this machine, not yet digested; raises as `find_base`."""
    return _base_files(base_model(config))


def _called(ref: ModelRef, model: LocalModel) -> str:
    """A model in the words of a message."""
    if ref.kind in ("detector", "parser"):
        return f"the face {ref.kind} {ref.name}"
    if ref.kind == "base":
        return "the miniature pipeline" if ref.ships else str(model.paths[-1])
    return ref.name


def _shipped(ref: ModelRef, check: bool) -> LocalModel:
    lock, folder = shipped_lock(), SHIPPED.parent / ref.name
    if check:
        lock.verify(ref.name, folder)
    return LocalModel(ref.name, lock.digest(ref.name), (folder,))


def _base(ref: ModelRef, check: bool) -> LocalModel:
    files = _base_files(ref)
    if ref.source == MINIATURE:
        if check:
            shipped_lock().verify("pipeline", files.folder)
        digest = shipped_lock().digest("pipeline")
    else:
        digest = files.digest()
    paths = (files.folder,) if files.checkpoint is None else (files.folder, files.checkpoint)
    return LocalModel(ref.name, digest, paths)


def _base_files(ref: ModelRef) -> BaseFiles:
    return find_base(ref.source, layout=ref.layout, place=ref.place)


def _detector(ref: ModelRef, check: bool) -> LocalModel:
    folders = ref.place.folders
    if ref.place.is_bucket and ref.models:
        folders = _detector_folders(ref.models[0], ref.place)
    files = detector_files(ref.name, folders)
    record = {
        "files": {file.name: file_entry(file)["sha256"] for file in (*files, *second_look_files(ref.name))},
        "package": detector_package_version(ref.name),
        "detector": [ref.name, ref.version],
    }
    return LocalModel(ref.name, sha256_hex(canonical_json(record)), files)


def _detector_folders(model: KnownModel, place: WeightsPlace) -> tuple[Path, ...]:
    """The folders of a bucket's detector, copied here; none where only DeepFace's own folder or a package has it."""
    if not place.names(model.folder):
        try:
            find_files(model)
            return ()
        except MissingWeights:
            pass  # what is said below names the bucket
    paths = resolve(published(model, place), check=True).paths
    return tuple(dict.fromkeys(path.parent for path in paths))


def _parser(ref: ModelRef, check: bool) -> LocalModel:
    if ref.name != "segformer":
        return LocalModel(ref.name, sha256_hex(canonical_json([ref.name, ref.version])))
    folder = _segformer_folder(ref)
    digests = b"".join(bytes.fromhex(file_entry(folder / file.name)["sha256"]) for file in SEGFORMER_FILES)
    record = [ref.name, ref.version, sha256_hex(digests)]
    return LocalModel(ref.name, sha256_hex(canonical_json(record)), (folder,))


def _segformer_folder(ref: ModelRef) -> Path:
    """The folder of a parser's files: its path or, for a hub id, in the place of weights or the hub's local cache."""
    names, source = [file.name for file in SEGFORMER_FILES], ref.source
    if not source:
        raise ConfigurationError(
            "faces.parser segformer needs faces.parser_source: a folder, or a hub id such as jonathandinu/face-parsing"
        )
    folder = Path(source) if Path(source).is_dir() else _of_hub(ref, names)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise MissingWeights(
            f"face parser {source}: {', '.join(missing)} not found in {folder}; put the files of a SegFormer for face "
            f"parsing there (jonathandinu/face-parsing: {_USUAL_SEGFORMER_MEGABYTES} MB), as safetensors"
        )
    return folder


def _of_hub(ref: ModelRef, names: list[str]) -> Path:
    for model in ref.models:
        if ref.place.is_bucket and ref.place.names(model.folder):
            return resolve(published(model, ref.place), check=True).paths[0].parent
        for folder in (each / model.folder for each in ref.place.folders):
            if folder.is_dir():
                return folder
        hub = HubModel.parse(ref.source)
        if hub is not None and (found := hub.snapshot(names)) is not None:
            return found
    raise MissingWeights(
        f"face parser {ref.source} is neither a folder nor a hub id in the local cache of the hub (HF_HOME); bring "
        f"it with `faceid models fetch`, or {', '.join(names)} there (jonathandinu/face-parsing: "
        f"{_USUAL_SEGFORMER_MEGABYTES} MB), before the run, which downloads nothing"
    )


def _scorer(ref: ModelRef, check: bool) -> LocalModel:
    parts = [resolve(published(model, ref.place), check=check) for model in ref.models]
    record = [ref.title.rpartition("@")[0], ref.version, [part.digest for part in parts]]
    paths = tuple(path for part in parts for path in part.paths)
    return LocalModel(ref.name, sha256_hex(canonical_json(record)), paths)


def _published(ref: ModelRef, check: bool) -> LocalModel:
    (model,) = ref.models
    entry = entry_of(model, ref.place)
    paths = paths_of(model, ref.place, entry) if check else {}
    for name, path in paths.items():
        check_file(model.folder, path, entry[name])
    return LocalModel(ref.name, entry_digest(entry), tuple(paths.values()))


_RESOLVERS: dict[str, Callable[[ModelRef, bool], LocalModel]] = {
    "shipped": _shipped,
    "base": _base,
    "detector": _detector,
    "parser": _parser,
    "scorer": _scorer,
    "published": _published,
}
