"""The command line's options, made from NightlyConfig itself: each with its description, range and default."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from faceid_core.config import NightlyConfig, load_config

# These sections say how and what to run, and are typed most often: their options carry no prefix.
_BARE_SECTIONS = ("run", "execution", "personalize.method")
_FLAG_PREFIX = {"personalize.method": "method-", "base_model": "model-"}


def config_options(command: Callable) -> Callable:
    """Add --config and one option for every field of NightlyConfig to a click command.

    The command receives the parsed configuration as `config`.
    """
    fields = list(_leaves(NightlyConfig, ""))

    def parse(config_file: str | None, **values: Any) -> Any:
        rest = {}
        overrides = {}
        names = {_parameter(path): path for path, _, _ in fields}
        for name, value in values.items():
            if name not in names:
                rest[name] = value
            elif value is not None and value != ():
                overrides[names[name]] = value
        return command(config=load_config(config_file, overrides), **rest)

    parse.__name__, parse.__doc__ = command.__name__, command.__doc__
    parse.__click_params__ = list(getattr(command, "__click_params__", []))  # type: ignore[attr-defined]
    wrapped: Callable = parse
    for path, field, annotation in reversed(fields):
        wrapped = _option(path, field, annotation)(wrapped)
    return click.option(
        "--config",
        "config_file",
        type=click.Path(dir_okay=False),
        help="YAML file with any of the keys below.",
    )(wrapped)


def _leaves(model: type[BaseModel], prefix: str):
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _leaves(field.annotation, f"{path}.")
        else:
            yield path, field, _without_none(field.annotation)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return _without_none(kinds[0]) if len(kinds) == 1 else str
    if get_origin(annotation) is Annotated:
        return _without_none(get_args(annotation)[0])
    return annotation


def _flag(path: str) -> str:
    section, _, name = path.rpartition(".")
    if section in _FLAG_PREFIX:
        name = _FLAG_PREFIX[section] + name
    elif section and section not in _BARE_SECTIONS:
        name = f"{section.split('.')[-1]}-{name}"
    return "--" + name.replace("_", "-")


def _parameter(path: str) -> str:
    return path.replace(".", "__")


def _option(path: str, field: Any, annotation: Any):
    default = field.default if field.default is not PydanticUndefined else None
    shown = (
        "empty"
        if default in (None, "", ())
        else ", ".join(map(str, default))
        if isinstance(default, tuple)
        else default
    )
    help_text = f"{field.description}  [{path}; default: {shown}{_limits(field)}]"
    names = (_flag(path), _parameter(path))
    if annotation is bool:
        flag = f"{names[0]}/--no-{names[0].removeprefix('--')}"
        return click.option(flag, names[1], default=None, help=help_text)
    if get_origin(annotation) is Literal:
        return click.option(*names, type=click.Choice([str(v) for v in get_args(annotation)]), help=help_text)
    if get_origin(annotation) is tuple:
        inner = typing.get_args(annotation)[0]
        kind = click.Choice(list(get_args(inner))) if get_origin(inner) is Literal else str
        return click.option(*names, type=kind, multiple=True, help=help_text + " May be repeated.")
    metavar = {int: "INTEGER", float: "NUMBER"}.get(annotation, "TEXT")
    return click.option(*names, type=str, metavar=metavar, help=help_text)


def _limits(field: Any) -> str:
    found = {}
    inner = [part for kind in get_args(field.annotation) for part in getattr(kind, "__metadata__", ())]
    for limit in [*field.metadata, *inner]:
        for name in ("ge", "gt", "le", "lt"):
            if getattr(limit, name, None) is not None:
                found[name] = getattr(limit, name)
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return "".join(f"; {signs[name]} {value}" for name, value in found.items())
