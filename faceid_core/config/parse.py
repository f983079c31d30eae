"""From a YAML file and KEY=VALUE settings to a NightlyConfig, with every problem in words."""

from __future__ import annotations

import difflib
import json
import shlex
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from faceid_core.errors import MOST_LISTED, ConfigurationError, listed
from faceid_core.yaml_text import MOST_BYTES, read_yaml

from .keys import all_keys, all_sections
from .nightly import NightlyConfig

_COMMAND_LINE = "the command line"


def parse_config(data: dict[str, Any], *, source: str = "configuration") -> NightlyConfig:
    """Validate a mapping as a NightlyConfig.

    Raises:
        ConfigurationError: the first problems at once, each with its key and what would be right.
    """
    try:
        return NightlyConfig.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        lines = [_explain(problem) for problem in found[:MOST_LISTED]]
        raise ConfigurationError(f"{source} cannot be used:\n{listed(lines, count=len(found))}") from None


def load_config(path: str | Path | None, overrides: dict[str, Any] | None = None) -> NightlyConfig:
    """Read a YAML file (or nothing) and lay dotted overrides such as {'generate.seeds': 2} over it.

    Raises:
        ConfigurationError: the file cannot be read, or what results is no configuration.
    """
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
    sources = [str(path)] if path else []
    sources += [_COMMAND_LINE] if overrides or not path else []
    return parse_config(data, source=" with ".join(sources))


def _mapping(text: bytes, *, source: str) -> dict[str, Any]:
    data = read_yaml(text, source=source, what="a configuration") or {}
    if not isinstance(data, dict):
        raise ConfigurationError(f"{source} must hold a mapping of sections, not {type(data).__name__}")
    return data


def parse_setting(text: str) -> tuple[str, Any]:
    """Key and value of KEY=VALUE, as in `generate.seeds=2`; the value is read as YAML.

    A key whose value is text takes it as it is written, where YAML would read a number, a date or a mapping.

    Raises:
        ConfigurationError: this is no KEY=VALUE, or the value is no YAML.
    """
    path, sign, value = text.partition("=")
    if not sign or not path:
        raise ConfigurationError(f"{text[:60]!r} is not KEY=VALUE, as in generate.seeds=2")
    try:
        parsed = read_yaml(value, source="its value", what="a setting")
    except ConfigurationError as error:
        raise ConfigurationError(f"{text[:60]!r} has a value that is no YAML: {error}") from None
    key = all_keys().get(path)
    if key is not None and key.is_text and not isinstance(parsed, str):
        return path, None if parsed is None and key.is_optional else value
    return path, parsed


def format_setting(path: str, value: str) -> str:
    """KEY=VALUE that `parse_setting` reads as this text."""
    plain = f"{path}={value}"
    try:
        is_read_back = parse_setting(plain)[1] == value
    except ConfigurationError:
        is_read_back = False
    return plain if is_read_back else f"{path}={json.dumps(value)}"


def store_options(config: NightlyConfig) -> str:
    """The options by which a command that somebody copies reaches the same store, quoted for a shell."""
    settings = {"s3.endpoint_url": config.s3.endpoint_url, "s3.region": config.s3.region}
    options = ["--store", config.store]
    if config.store.startswith("s3://"):
        for key, value in settings.items():
            options += ["--set", format_setting(key, value)] if value else []
        if config.s3.path_style is not None:
            options += ["--set", f"s3.path_style={str(config.s3.path_style).lower()}"]
    return shlex.join(options)


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


def _explain(problem: ErrorDetails) -> str:
    """One validation problem as 'key: what is wrong; what would be right'."""
    parts = [str(part)[:60] for part in problem["loc"]]
    where = ".".join(parts) or "configuration"
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key; {suggest_key(where)}"
    got = "" if isinstance(problem["input"], dict) else f" (got {_shown(problem['input'])})"
    key = all_keys().get(where) or all_keys().get(".".join(parts[:-1]))
    hint = ""
    if key is not None and problem["type"] == "literal_error":
        close = difflib.get_close_matches(str(problem["input"])[:60], key.choices, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
    elif key is not None and problem["type"] == "tuple_type":
        hint = "; write a list, as in [one, two]"
    return f"{where}: {problem['msg']}{got}{hint}"


def suggest_key(path: str) -> str:
    """What may have been meant by a key that does not exist: one that is called so elsewhere, or nearly so."""
    section, _, name = path.rpartition(".")
    known = [*all_keys(), *(section for section in all_sections() if section)]
    beside = [each.rpartition(".")[2] for each in known if each.rpartition(".")[0] == section]
    elsewhere = [each for each in known if each.rpartition(".")[2] == name]
    close = elsewhere[:3] or difflib.get_close_matches(name, beside, n=1)
    if not close:
        likely = difflib.get_close_matches(name, {each.rpartition(".")[2] for each in known}, n=1)
        close = [each for each in known if each.rpartition(".")[2] in likely][:3]
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"known keys: {', '.join(sorted(beside))}" if beside else "faceid config lists the keys"


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
