"""faceid study: one question about the method, answered by a run per variant."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from faceid_core.config import NightlyConfig, load_config
from faceid_core.errors import ConfigurationError
from faceid_core.outcomes import EXIT_FAILURES
from faceid_core.studies.definitions import studies
from faceid_core.yaml_text import read_yaml


def _listed() -> str:
    lines = "\n".join(f"{name:<16} {study.question}" for name, study in studies().items())
    return f"\b\nStudies:\n{lines}"


def _usual(number: str) -> str:
    """How many of something studies take by default, as help says it."""
    reporting, tuning = (getattr(studies()[name], number) for name in ("presets", "tune"))
    return f"[default: {reporting}; tune: {tuning}]"


@click.command(short_help="Answer one question about the method with a sweep.", epilog=_listed())
@click.argument("name", type=click.Choice(list(studies())), metavar="STUDY")
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False),
    help="YAML file of a run: what all variants share.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A key of that file, as in generate.batch=64. May be repeated.",
)
@click.option("--people", type=click.IntRange(2, 64), help=f"How many.  {_usual('people')}")
@click.option("--seeds", type=click.IntRange(1, 64), help=f"Pictures per prompt.  {_usual('seeds')}")
@click.option(
    "--grid",
    default=None,
    help="Prompt grid: 'miniature', 'laboratory' or a YAML file.  [default: the file's, or laboratory]",
)
@click.option(
    "--variants", default="", help="Only these, separated by commas; for tune also presets.  [default: all]"
)
@click.option("--store", default=None, help="Root of the store.  [default: the file's]")
@click.option("--executor", type=click.Choice(["ray", "inline"]), help="[default: the file's]")
@click.option(
    "--out",
    default="work/studies",
    show_default=True,
    type=click.Path(file_okay=False),
    help="Folder of tables, pages and figures.",
)
@click.option("--table-only", is_flag=True, help="Compute nothing: take what the store holds.")
@click.option("--fresh", is_flag=True, help="Begin the study's table anew.")
def study(
    name, config_file, settings, people, seeds, grid, variants, store, executor, out, table_only, fresh
) -> None:
    """Run every variant of STUDY on the same people and prompts, and compare them.

    Each variant is an ordinary run, cached in the store: an interrupted study goes on where it stopped, and variants
    that studies share are computed once. OUT gets STUDY.csv (a row per variant and person), STUDY.md and STUDY.svg;
    rows that an earlier session left there are kept, if they were measured with the same settings.
    """
    from faceid_core.studies.run import run_study

    about = studies()[name]
    console = Console(highlight=False)
    # On the miniature's own grid everybody obeys; a configuration file brings the grid of its user.
    grid = grid or (None if config_file else "laboratory")
    given = {"generate.grid": grid, "store": store, "execution.executor": executor}
    if about.selects and not any(each.startswith("score.scorers=") for each in settings):
        from faceid_core.studies.definitions import SELECTION_SCORERS

        given["score.scorers"] = SELECTION_SCORERS[0]
    overrides = {key: value for key, value in given.items() if value is not None}
    result = run_study(
        about,
        load_config(config_file, overrides | dict(_setting(each) for each in settings)),
        people=people or about.people,
        seeds=seeds or about.seeds,
        names=[each.strip() for each in variants.split(",") if each.strip()],
        out=Path(out),
        start_run=lambda config: _start_run(config, console),
        print_line=lambda text: console.print(text, markup=False, soft_wrap=True),
        table_only=table_only,
        fresh=fresh,
    )
    for label in result.missing:
        console.print(f"not in the store: {label}; run again without --table-only", markup=False)
    for file in result.files:
        console.print(f"wrote {file}", soft_wrap=True)
    if result.missing or result.absent:
        raise click.exceptions.Exit(EXIT_FAILURES)


def _setting(text: str) -> tuple[str, object]:
    key, sign, value = text.partition("=")
    if not sign:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--set")
    try:
        return key, read_yaml(value, source="its value", what="a setting")
    except ConfigurationError as error:
        raise click.BadParameter(
            f"{text[:60]!r} has a value that is no YAML: {error}", param_hint="--set"
        ) from None


def _start_run(config: NightlyConfig, console: Console):
    from flows.cli_run import start_run
    from flows.console import ConsoleReporter
    from flows.stopping import watched

    with watched(), ConsoleReporter(console) as reporter:
        run, _ = start_run(config, reporter)
    return run
