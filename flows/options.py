"""The configuration on the command line: --config, --set, and options for the few keys that people type daily."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import click

from faceid_core.config import load_config
from faceid_core.config.keys import Key, all_keys
from faceid_core.config.parse import parse_setting
from faceid_core.errors import ConfigurationError

# Every other key is given with --set.
OPTIONS = {
    "identities": "--identities",
    "store": "--store",
    "run.only": "--only",
    "run.date": "--run-date",
    "run.from_stage": "--from-stage",
    "run.force": "--force",
    "execution.executor": "--executor",
    "execution.workers": "--workers",
    "personalize.preset": "--preset",
    "generate.grid": "--grid",
    "faces.backend": "--faces",
    "faces.detector": "--detector",
    "faces.parser": "--parser",
    "faces.parser_source": "--parser-source",
    "faces.mask_region": "--mask",
}
# For a run, its plan and its explanation.
RUN_KEYS = (
    "identities", "store", "personalize.preset", "run.only", "run.from_stage", "run.force",
    "execution.executor", "execution.workers",
)  # fmt: skip

_MOST_COLUMNS_OF_CHOICES = 40  # longer lists stand in the help text


def takes_config(*keys: str, without_file: Mapping[str, Any] | None = None) -> Callable[[Callable], Callable]:
    """Add --config, --set and an option for each of `keys` to a command, which receives the configuration as `config`.

    --set takes precedence over an option, and an option over the file.

    Args:
        keys: dotted keys; `OPTIONS` names the option of each.
        without_file: values of keys that are not given, where no file is given either.
    """
    chosen = [all_keys()[path] for path in keys]

    def decorate(command: Callable) -> Callable:
        @wraps(command)
        def parse(config_file: str | None, settings: tuple[str, ...], **values: Any) -> Any:
            given = {key.path: values.pop(_parameter(key)) for key in chosen}
            overrides = {path: value for path, value in given.items() if value not in (None, ())}
            overrides |= dict(map(parse_setting_option, settings))
            if config_file is None:
                overrides = {**(without_file or {}), **overrides}
            return command(config=load_config(config_file, overrides), **values)

        with_options: Callable = parse
        for key in reversed(chosen):
            with_options = _option(key, (without_file or {}).get(key.path, key.default))(with_options)
        for option in (_SET, _CONFIG):
            with_options = option(with_options)
        return with_options

    return decorate


_CONFIG = click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Configuration, a YAML file.",
)
_SET = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set any key, as in generate.seeds=2. May be repeated; faceid config lists the keys.",
)


def parse_setting_option(text: str, *, option: str = "--set") -> tuple[str, Any]:
    """Key and value of KEY=VALUE from the command line.

    Raises:
        click.BadParameter: this is no setting.
    """
    try:
        return parse_setting(text)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


def _parameter(key: Key) -> str:
    return key.path.replace(".", "__")


def _option(key: Key, default: Any) -> Callable[[Callable], Callable]:
    names, notes = (OPTIONS[key.path], _parameter(key)), [key.path]
    if not (default is None or default is False or default in ("", ())):
        notes.append(f"default: {default}")
    text, choices = key.description, " | ".join(key.choices)
    if len(choices) > _MOST_COLUMNS_OF_CHOICES:
        text = f"{text} One of {', '.join(key.choices)}."
    if key.is_list:
        text = f"{text} May be repeated."
    text = f"{text}  [{'; '.join(notes)}]"
    if key.kind is bool:
        return click.option(*names, is_flag=True, default=None, help=text)
    # NightlyConfig parses the text, so that a value is refused in the same words whichever way it is given.
    metavar = {int: "INTEGER", float: "NUMBER"}.get(key.kind, "TEXT")
    if key.choices:
        metavar = "NAME" if len(choices) > _MOST_COLUMNS_OF_CHOICES else f"[{'|'.join(key.choices)}]"
    return click.option(*names, type=str, multiple=key.is_list, metavar=metavar, help=text)
