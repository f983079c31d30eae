"""What weights a configuration needs, and whether they are here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, FaceidError, MissingWeights
from faceid_core.faces.deepface_backend import find_weights as find_detector
from faceid_core.faces.segformer import find_folder, hub_parser
from faceid_core.weights.base_model import hub_model as pinned
from faceid_core.weights.describe import MINIATURE
from faceid_core.weights.lock import DamagedWeights

from .catalog import ATTRIBUTES, CLIPS, DETECTORS, RECOGNIZERS, KnownModel
from .deepface_files import find_files
from .locate import WeightsPlace, check_file, detector_folders, digest_of, entry_of

State = Literal["ships", "here", "missing", "damaged"]


@dataclass(frozen=True)
class Need:
    """One model that a configuration needs.

    Args:
        role: what for, in the configuration's words.
        name: of the model.
        state: ships with the project or a package; here and checked; not here; here but another file.
        detail: where it is, or what is wrong and what to do.
        model: what is known of it, where it can be fetched.
        digest: of its files, where they are here.
    """

    role: str
    name: str
    state: State
    detail: str
    model: KnownModel | None = None
    digest: str = ""


def needs_of(config: NightlyConfig, *, check: bool = False) -> list[Need]:
    """Every model that a configuration asks for.

    Args:
        check: read every file and compare it with its digest.
    """
    place = place_of(config)
    scorers = [_known(role, model, place, check) for role, model in scorers_of(config)]
    return [_base(config), _faces(config), *_parser(config), *scorers]


def place_of(config: NightlyConfig) -> WeightsPlace:
    """Where the configuration says that scorers' weights lie."""
    return WeightsPlace(config.weights, config.s3.model_dump())


def scorers_of(config: NightlyConfig) -> list[tuple[str, KnownModel]]:
    """Role and model of every scorer that the configured metrics ask and that does not ship."""
    from faceid_core.stages.weights import asked_for, chosen_scorers

    chosen = chosen_scorers(config)
    if chosen is None:
        return []
    asked, found = asked_for(config), {}
    for role, (_, _, models) in chosen.models().items():
        if role in asked:
            for model in models:
                found.setdefault(model.folder, (role, model))
    return list(found.values())


def named(names: Iterable[str]) -> list[tuple[str, KnownModel]]:
    """Models of the catalog by name, such as ArcFace, ViT-L/14, yunet.

    Raises:
        ConfigurationError: a name is unknown.
    """
    tables = {"recognizer": RECOGNIZERS, "image_text": CLIPS, "detector": DETECTORS, "attributes": ATTRIBUTES}
    known = {name: (role, model) for role, table in tables.items() for name, model in table.items()}
    strange = sorted(set(names) - set(known))
    if strange:
        raise ConfigurationError(f"{', '.join(strange)} is no known model; known are {', '.join(known)}")
    return [known[name] for name in names]


def hub_model(source: str) -> KnownModel | None:
    """A base model that a hub revision or a known name names; None for folders, buckets and what ships."""
    found = pinned(source)
    return found and KnownModel(found.folder, (), hub=found.repository, revision=found.revision)


def _base(config: NightlyConfig) -> Need:
    from faceid_core.stages.weights import base_files

    source = config.base_model.source
    if source == MINIATURE:
        return Need("base model", source, "ships", "with faceid")
    try:
        files = base_files(config)
    except FaceidError as error:
        return Need("base model", source, "missing", str(error), hub_model(source))
    return Need("base model", source, "here", str(files.checkpoint or files.folder))


def _faces(config: NightlyConfig) -> Need:
    backend = config.faces.backend
    if backend == MINIATURE:
        return Need("faces", backend, "ships", "with faceid")
    detector = config.faces.detector
    name = f"{backend} {detector}"
    try:
        files = find_detector(detector, detector_folders(detector, place_of(config)))
    except FaceidError as error:
        return Need("detector", name, "missing", str(error), DETECTORS.get(detector))
    return Need("detector", name, "here", str(files[0].parent) if files else "in its package")


def _parser(config: NightlyConfig) -> list[Need]:
    """A face parser that is a network; the others need no files."""
    faces = config.faces
    if not faces.photographs or faces.parser != "segformer":
        return []
    source = faces.parser_source
    try:
        folder = find_folder(source, place_of(config))
    except FaceidError as error:
        return [Need("face parser", source, "missing", str(error), hub_parser(source))]
    return [Need("face parser", source, "here", str(folder))]


def _known(role: str, model: KnownModel, place: WeightsPlace, check: bool) -> Need:
    try:
        entry = entry_of(model, place)
        if check and not place.is_bucket:
            for name, wanted in entry.items():
                check_file(model.folder, _path(model, name, place), wanted)
    except DamagedWeights as error:
        return Need(role, model.folder, "damaged", str(error), model)
    except MissingWeights as error:
        return Need(role, model.folder, "missing", str(error), model)
    return Need(role, model.folder, "here", place.source or "this machine", model, digest_of(entry))


def _path(model: KnownModel, name: str, place: WeightsPlace) -> Path:
    if model.hub is not None:
        return place.folders[0] / model.folder / name
    return next(path for path in find_files(model, place.folders) if path.name == name)
