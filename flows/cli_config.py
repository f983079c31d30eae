"""faceid config: the keys of the configuration, what they mean, and the values in effect."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

import click

from faceid_core.config import NightlyConfig
from faceid_core.config.keys import METHOD_SECTION, Key, all_keys, all_sections
from faceid_core.config.parse import suggest_key
from faceid_core.errors import ConfigurationError
from flows.options import takes_config

_MOST_COLUMNS = 100
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


@click.command()
@click.argument("names", nargs=-1, metavar="[KEY|SECTION]...")
@takes_config()
@click.option("--schema", is_flag=True, help="Print the JSON schema of the configuration file instead.")
def config(config: NightlyConfig, names: tuple[str, ...], schema: bool) -> None:
    """Each key is printed with its value, default, bounds and meaning. With --config and --set the values are those
    that a run would use. A default that neither the paper nor public code states is marked as a reconstruction.

    \b
    Examples:
      faceid config                       all keys
      faceid config personalize           one section
      faceid config generate.seeds        one key
      faceid config score --config run.yaml --set score.named_people=8

    Editors complete and check the YAML file by its schema: write it with
    `faceid config --schema > faceid.schema.json` and begin the file with
    `# yaml-language-server: $schema=faceid.schema.json`.
    """
    if schema:
        click.echo(json.dumps({"$schema": _DIALECT, **NightlyConfig.model_json_schema()}, indent=2))
        return
    width = min(_MOST_COLUMNS, shutil.get_terminal_size().columns)
    for line in describe_keys(config, _chosen(names), width=width):
        click.echo(line)


def _chosen(names: tuple[str, ...]) -> list[Key]:
    """The keys that are named, or that lie in a section that is named; all without a name.

    Raises:
        ConfigurationError: there is no such key or section.
    """
    for name in names:
        if name not in all_keys() and name not in all_sections():
            raise ConfigurationError(f"the configuration has no key or section {name!r}; {suggest_key(name)}")
    return [
        key
        for key in all_keys().values()
        if not names or any(key.path == name or key.path.startswith(f"{name}.") for name in names)
    ]


def describe_keys(config: NightlyConfig, keys: list[Key], *, width: int) -> Iterator[str]:
    """Lines that describe keys, section by section.

    Args:
        config: whose values are shown.
        width: columns.
    """
    for section, about in all_sections().items():
        within = [key for key in keys if key.section == section]
        if within:
            yield f"{section}: {about}" if section else about
            yield ""
        for key in within:
            head = f"{key.path} = {_shown(_value(config, key))}  ({'; '.join(_facts(config, key))})"
            yield from _wrapped(head, width, first=2, others=8)
            yield from _wrapped(key.description, width, first=6, others=6)
            yield ""
    if any(key.is_reconstruction for key in keys):
        yield "reconstruction: neither the paper nor public code states the default"


def _wrapped(text: str, width: int, *, first: int, others: int) -> list[str]:
    """Lines of a text, indented by so many columns."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=" " * first,
        subsequent_indent=" " * others,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _value(config: NightlyConfig, key: Key) -> Any:
    """The value in effect; of a choice of the method the preset's, unless the configuration has its own."""
    value: Any = config
    for part in key.path.split("."):
        value = getattr(value, part)
    if value is None and key.section == METHOD_SECTION:
        return getattr(config.method(), key.name)
    return value


def _facts(config: NightlyConfig, key: Key) -> Iterator[str]:
    """Default, bounds and choices of a key, and whether its default is a reconstruction."""
    if key.section == METHOD_SECTION:
        is_set = getattr(config.personalize.method, key.name) is not None
        yield "set here" if is_set else f"from preset {config.personalize.preset}"
    elif _value(config, key) == key.default:
        yield "default"
    else:
        yield f"default {_shown(key.default)}"
    if key.bounds:
        yield key.bounds
    if key.choices:
        yield f"{'some' if key.is_list else 'one'} of {', '.join(key.choices)}"
    if key.is_reconstruction:
        yield "reconstruction"


def _shown(value: Any) -> str:
    if value is None or value == "" or value == ():
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
