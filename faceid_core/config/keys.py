"""Every key of the configuration as a list: what `faceid config`, the options and the suggestions are made from."""

from __future__ import annotations

import datetime as dt
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .method import RECONSTRUCTION, Method
from .nightly import NightlyConfig
from .personalize import MethodOverrides

METHOD_SECTION = "personalize.method"
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True)
class Key:
    """One key of the configuration.

    Args:
        path: its dotted path, as in `generate.seeds`.
        kind: its type; None, where the key may be empty, is left out of it.
        description: what it means.
        default: its default; of a choice of the method None, which stands for the preset's value.
        is_optional: whether it may be empty.
        bounds: what a number must keep to, as in "1 to 64".
        is_reconstruction: whether neither the paper nor public code states the default.
    """

    path: str
    kind: Any
    description: str
    default: Any
    is_optional: bool
    bounds: str
    is_reconstruction: bool

    @property
    def section(self) -> str:
        """The path of the section that holds the key; empty at the top."""
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def is_text(self) -> bool:
        """Whether the value is written as text, a date or a time of day included."""
        return self.kind in (str, dt.time, dt.date)

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        return get_origin(self.kind) is tuple

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that the key, or each item of its list, may have; empty where they are not a fixed set."""
        kind = get_args(self.kind)[0] if self.is_list else self.kind
        return get_args(kind) if get_origin(kind) is Literal else ()


@cache
def all_keys() -> dict[str, Key]:
    """Every key by its dotted path, in the order of the model."""
    return {key.path: key for key in _keys_of(NightlyConfig, "")}


@cache
def all_sections() -> dict[str, str]:
    """What each section holds, by its dotted path; the keys outside all sections are those of the empty path."""
    return {"": "What is run, and where its results go.", **dict(_sections_of(NightlyConfig, ""))}


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo, type[BaseModel] | None]]:
    """Path, field and, if the field is a section, its model."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
        yield prefix + name, field, kind if is_section else None


def _keys_of(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    for path, field, section in _fields(model, prefix):
        if section is not None:
            yield from _keys_of(section, f"{path}.")
            continue
        kind, is_optional, limits = _unwrapped(field.annotation)
        # A field of the overrides describes the preset's value; the method's own describes the choice.
        described = Method.model_fields[path.rpartition(".")[2]] if model is MethodOverrides else field
        source = (
            described.json_schema_extra.get("source")
            if isinstance(described.json_schema_extra, dict)
            else None
        )
        yield Key(
            path,
            kind,
            (described.description or "").removesuffix(" (Reconstruction.)"),
            field.default,
            is_optional,
            _bounds([*field.metadata, *limits]),
            source == RECONSTRUCTION,
        )


def _sections_of(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    for path, field, section in _fields(model, prefix):
        if section is not None:
            yield path, field.description or ""
            yield from _sections_of(section, f"{path}.")


def _unwrapped(annotation: Any) -> tuple[Any, bool, list[Any]]:
    """The type without None and limits, whether None was in it, and the limits."""
    if get_origin(annotation) is Annotated:
        inner, *limits = get_args(annotation)
        kind, is_optional, more = _unwrapped(inner)
        return kind, is_optional, [*limits, *more]
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        if len(kinds) == 1:
            kind, _, limits = _unwrapped(kinds[0])
            return kind, True, limits
    return annotation, False, []


def _bounds(limits: list[Any]) -> str:
    """As in "1 to 64" or "above 0, at most 90"."""
    found = {name: getattr(limit, name) for limit in limits for name in _BOUNDS if hasattr(limit, name)}
    found = {name: f"{value:.12g}" for name, value in found.items()}
    if {"ge", "le"} <= set(found):
        return f"{found['ge']} to {found['le']}"
    return ", ".join(f"{words} {found[name]}" for name, words in _BOUNDS.items() if name in found)
