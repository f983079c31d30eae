"""From a YAML file and dotted overrides to a NightlyConfig, with every problem in words."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from faceid_core.errors import MOST_TOLD, ConfigurationError, listed
from faceid_core.yaml_text import MOST_BYTES, read_yaml

from .nightly import NightlyConfig


def parse_config(data: dict[str, Any], *, source: str = "configuration") -> NightlyConfig:
    """Validate a mapping as a NightlyConfig.

    Raises:
        ConfigurationError: the first problems at once, each with its key and what would be right.
    """
    try:
        return NightlyConfig.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        lines = [_explain(problem) for problem in found[:MOST_TOLD]]
        raise ConfigurationError(f"{source} cannot be used:\n{listed(lines, count=len(found))}") from None


def load_config(path: str | Path | None, overrides: dict[str, Any] | None = None) -> NightlyConfig:
    """Read a YAML file (or nothing) and lay dotted overrides such as {'generate.seeds': 2} over it."""
    data: dict[str, Any] = {}
    if path is not None:
        try:
            with Path(path).open("rb") as file:
                data = _mapping(file.read(MOST_BYTES + 1), source=str(path))
        except FileNotFoundError:
            raise ConfigurationError(f"configuration file {path} does not exist") from None
        except OSError as error:
            raise ConfigurationError(f"configuration file {path} cannot be read: {error.strerror}") from None
    for dotted, value in (overrides or {}).items():
        _set(data, dotted, value)
    return parse_config(data, source=str(path) if path else "command line")


def _mapping(text: bytes, *, source: str) -> dict[str, Any]:
    data = read_yaml(text, source=source, what="a configuration") or {}
    if not isinstance(data, dict):
        raise ConfigurationError(f"{source} must hold a mapping of sections, not {type(data).__name__}")
    return data


def changed(config: NightlyConfig, overrides: dict[str, Any], *, source: str) -> NightlyConfig:
    """Another configuration: this one with dotted overrides, validated as a whole.

    Raises:
        ConfigurationError: every problem at once; `source` says where the overrides come from.
    """
    data = config.model_dump()
    for dotted, value in overrides.items():
        _set(data, dotted, value)
    return parse_config(data, source=source)


def _set(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        below = data.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigurationError(f"{parent} must be a mapping to set {dotted}")
        data = below
    data[last] = value


def _explain(problem: dict[str, Any]) -> str:
    """One validation problem as 'key: what is wrong; what would be right'."""
    where = ".".join(str(part)[:60] for part in problem["loc"]) or "configuration"
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(problem["loc"])
        close = difflib.get_close_matches(str(problem["loc"][-1])[:60], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    got = "" if isinstance(problem["input"], dict) else f" (got {_shown(problem['input'])})"
    return f"{where}: {problem['msg']}{got}"


def _shown(value: Any) -> str:
    """A value as messages show it, not too long."""
    if isinstance(value, (list, tuple, set)):
        is_short = len(value) <= 10 and not any(isinstance(each, (list, tuple, set, dict)) for each in value)
        return f"[{', '.join(map(_shown, value))}]" if is_short else f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"a mapping of {len(value)}"
    try:
        text = repr(value)
    except ValueError:
        return "a number of very many digits"
    return text if len(text) <= 100 else text[:97] + "..."


def _keys_beside(location: tuple[Any, ...]) -> list[str]:
    model: Any = NightlyConfig
    for part in location[:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        model = field.annotation
    return sorted(getattr(model, "model_fields", {}))
