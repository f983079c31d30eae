"""Which models a configuration needs: `required` names them, `resolve.resolve` finds them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError

from .catalog import (
    ATTRIBUTES,
    CLIPS,
    DETECTORS,
    MINIATURE_SETS,
    PARSERS,
    RECOGNIZERS,
    SAFETY_CHECKERS,
    SEGFORMER_FILES,
    SELECTION,
    VERSIONS,
    KnownModel,
)
from .describe import MINIATURE
from .hub import HubModel, base_revision
from .place import NOWHERE, WeightsPlace
from .roles import photograph_roles

Kind = Literal["shipped", "base", "detector", "parser", "scorer", "published"]
BASE, DETECTOR, PARSER = "base", "face_detector", "face_parser"


@dataclass(frozen=True)
class ModelRef:
    """A model that a configuration needs; where its files are is not known yet.

    Args:
        role: what it is asked for, as in `Plan.weights`: base, face_detector, face_parser, or a scorer's role.
        kind: how its files are found and digested.
        name: as configuration and catalog call it: a folder of the shipped models, a base model's source, a detector,
            parser, recognizer or CLIP model.
        title: as tables call it, with the version of the code that asks it.
        place: where files that do not ship are looked for.
        models: what can be fetched for it.
        version: of the code that asks it, see `catalog.VERSIONS`.
        source: of a base model, or a face parser's folder or hub id.
        layout: of a base model in a single file.
    """

    role: str
    kind: Kind
    name: str
    title: str = ""
    place: WeightsPlace = NOWHERE
    models: tuple[KnownModel, ...] = ()
    version: int | str = 0
    source: str = ""
    layout: str = ""

    @property
    def ships(self) -> bool:
        """Whether its files are part of the project."""
        return self.kind == "shipped" or (self.kind == "base" and self.source == MINIATURE)


def required(config: NightlyConfig) -> list[ModelRef]:
    """Every model that a configuration's stages ask: the base model, the photos' detector and parser, the scorers.

    Of photographs' scorers only those without which the configured metrics cannot be measured.
    """
    return [base_model(config), *_faces(config), *_scorers(config)]


def place_of(config: NightlyConfig) -> WeightsPlace:
    """Where the configuration says that weights lie which do not ship."""
    return WeightsPlace(config.weights, config.s3.settings())


def base_model(config: NightlyConfig) -> ModelRef:
    """The configured base model."""
    base = config.base_model
    pinned = base_revision(base.source)
    return ModelRef(
        BASE,
        "base",
        base.source,
        place=WeightsPlace(base.weights or config.weights, config.s3.settings()),
        models=() if pinned is None else (pinned.known(),),
        source=base.source,
        layout=base.layout,
    )


def shipped(role: str, name: str, title: str = "") -> ModelRef:
    """One of the models that ship, by its folder."""
    return ModelRef(role, "shipped", name, title)


def face_detector(name: str, place: WeightsPlace = NOWHERE) -> ModelRef:
    """A detector for photographs, by DeepFace's name."""
    version = VERSIONS["detector"]
    models = (DETECTORS[name],) if name in DETECTORS else ()
    return ModelRef(DETECTOR, "detector", name, f"deepface-{name}@{version}", place, models, version)


def face_parser(name: str, source: str = "", place: WeightsPlace = NOWHERE) -> ModelRef:
    """A face parser for photographs.

    Args:
        source: of a segformer, its folder or hub id.

    Raises:
        ConfigurationError: the parser is unknown.
    """
    if name not in PARSERS:
        raise ConfigurationError(f"face parser {name!r} is unknown; use one of {', '.join(PARSERS)}")
    hub = HubModel.parse(source) if name == "segformer" else None
    models = () if hub is None else (hub.known(SEGFORMER_FILES),)
    return ModelRef(PARSER, "parser", name, name, place, models, VERSIONS[name], source)


def published(model: KnownModel, place: WeightsPlace) -> ModelRef:
    """The files of one model of the catalog."""
    return ModelRef(model.folder, "published", model.folder, place=place, models=(model,))


def named(names: Iterable[str]) -> list[KnownModel]:
    """Models of the catalog by name, such as ArcFace, ViT-L/14, yunet.

    Raises:
        ConfigurationError: a name is unknown.
    """
    known = {**RECOGNIZERS, **CLIPS, **DETECTORS, **ATTRIBUTES, **SAFETY_CHECKERS}
    strange = sorted(set(names) - set(known))
    if strange:
        raise ConfigurationError(f"{', '.join(strange)} is no known model; known are {', '.join(known)}")
    return [known[name] for name in names]


def _faces(config: NightlyConfig) -> list[ModelRef]:
    faces = config.faces
    if faces.backend == MINIATURE:
        own = MINIATURE_SETS[SELECTION]
        return [
            shipped(DETECTOR, own["detector"], "miniature-detector"),
            shipped(PARSER, own["parser"], "miniature-parser"),
        ]
    place = place_of(config)
    return [face_detector(faces.detector_name, place), face_parser(faces.parser, faces.parser_source, place)]


def _scorers(config: NightlyConfig) -> list[ModelRef]:
    score = config.score
    if not score.of_photographs:
        return [shipped(role, name) for role, name in MINIATURE_SETS[score.scorers].items()]
    asked = {role for metric in score.metrics for role in photograph_roles(metric).values()}
    found = _photograph_scorers(score.own_recognizers, score.own_clips, place_of(config))
    return [ref for ref in found if ref.role in asked]


def _photograph_scorers(
    recognizers: tuple[str, ...], clips: tuple[str, ...], place: WeightsPlace
) -> Iterable[ModelRef]:
    """Every role that the named models can play."""

    def scorer(role: str, name: str, kind: str, family: str, models: tuple[KnownModel, ...]) -> ModelRef:
        version = VERSIONS[kind]
        return ModelRef(role, "scorer", name, f"{family}-{name}@{version}", place, models, version)

    for role, name in zip(("recognizer", "second_recognizer"), recognizers, strict=False):
        yield scorer(role, name, "recognizer", "deepface", (RECOGNIZERS[name],))
    for role, name in zip(("image_text", "second_image_text"), clips, strict=False):
        yield scorer(role, name, "clip", "clip", (CLIPS[name],))
    yield scorer("embedder", clips[0], "clip", "clip", (CLIPS[clips[0]],))
    yield scorer("attributes", "Age+Gender", "attributes", "deepface", tuple(ATTRIBUTES.values()))
    yield scorer(
        "safety_checker", "StableDiffusion", "safety_checker", "safety", tuple(SAFETY_CHECKERS.values())
    )
