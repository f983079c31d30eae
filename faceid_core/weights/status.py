"""Whether the models that a configuration needs are here, for `faceid models fetch` and the doctor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from faceid_core.config import NightlyConfig
from faceid_core.errors import FaceidError

from .catalog import KnownModel
from .lock import DamagedWeights
from .required import BASE, DETECTOR, PARSER, ModelRef, published, required
from .resolve import base_files, resolve

State = Literal["ships", "here", "missing", "damaged"]
_IN_WORDS = {BASE: "base model", DETECTOR: "detector", PARSER: "face parser"}


@dataclass(frozen=True)
class ModelStatus:
    """One model that a configuration needs.

    Args:
        role: what for, in the configuration's words.
        name: of the model.
        state: ships with the project; here; not here; here but another file.
        detail: where it is, or what is wrong and what to do.
        model: what is known of it, where it can be fetched.
        digest: of a scorer's files, where they are here.
    """

    role: str
    name: str
    state: State
    detail: str
    model: KnownModel | None = None
    digest: str = ""


def model_statuses(config: NightlyConfig, *, check: bool = False) -> list[ModelStatus]:
    """Every model of a configuration that has files of its own, and the base model even where it ships.

    Args:
        check: read a scorer's files and compare them with their digests.
    """
    found = [status for ref in required(config) for status in _statuses(ref, config, check)]
    # One model may play several roles.
    return list({status.name: status for status in reversed(found)}.values())[::-1]


def _statuses(ref: ModelRef, config: NightlyConfig, check: bool) -> Iterator[ModelStatus]:
    if ref.kind == "scorer":
        for model in ref.models:
            yield _scorer(ref, model, check)
    elif ref.kind == "base" and ref.ships:
        yield ModelStatus(_IN_WORDS[ref.role], ref.name, "ships", "with faceid")
    elif ref.kind in ("base", "detector") or (ref.kind == "parser" and ref.source):
        yield _other(ref, config)


def _scorer(ref: ModelRef, model: KnownModel, check: bool) -> ModelStatus:
    try:
        here = resolve(published(model, ref.place), check=check and not ref.place.is_bucket)
    except DamagedWeights as error:
        return ModelStatus(ref.role, model.folder, "damaged", str(error), model)
    except FaceidError as error:
        return ModelStatus(ref.role, model.folder, "missing", str(error), model)
    return ModelStatus(ref.role, model.folder, "here", ref.place.source or "this machine", model, here.digest)


def _other(ref: ModelRef, config: NightlyConfig) -> ModelStatus:
    """The base model, a detector, or a parser that reads files."""
    role = _IN_WORDS[ref.role]
    name = {"detector": f"{config.faces.backend} {ref.name}", "parser": ref.source}.get(ref.kind, ref.name)
    try:
        if ref.kind == "base":
            files = base_files(config)  # digesting it would read gigabytes
            return ModelStatus(role, name, "here", str(files.checkpoint or files.folder))
        paths = resolve(ref).paths
    except FaceidError as error:
        return ModelStatus(role, name, "missing", str(error), next(iter(ref.models), None))
    where = paths and (paths[0] if ref.kind == "parser" else paths[0].parent)
    return ModelStatus(role, name, "here", str(where or "in its package"))
