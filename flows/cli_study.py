"""faceid study: one question about the method, answered by a run per variant.

What runs is imported in the functions: it loads pandas, Prefect and Ray, which the help page does not need.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import click
from rich.console import Console

from faceid_core.config import NightlyConfig, changed
from faceid_core.outcomes import EXIT_FAILURES
from faceid_core.studies.definitions import SELECTION_SCORERS, studies
from flows.cli_run import start_run
from flows.options import takes_config
from flows.stopping import watched

_COLUMNS = 76  # of a help page of 80, which indents


def _listed() -> str:
    lines = [
        textwrap.fill(f"  {name:<16} {study.question}", _COLUMNS, subsequent_indent=" " * 19)
        for name, study in studies().items()
    ]
    return "\n".join(["\b", "Studies:", *lines])


def _default(number: str) -> str:
    """How many of something studies take by default, for the help page."""
    reporting, tuning = (getattr(studies()[name], number) for name in ("presets", "tune"))
    return f"[default: {reporting}; tune: {tuning}]"


@click.command(epilog=_listed())
@click.argument("name", type=click.Choice(list(studies())), metavar="STUDY", required=False)
# On the miniature's own grid all concepts are drawn correctly; a configuration file brings the grid of its user.
@takes_config(
    "store", "execution.executor", "generate.grid", without_file={"generate.grid": "laboratory-half"}
)
@click.option("--people", type=click.IntRange(2, 64), help=f"Number of identities.  {_default('people')}")
@click.option("--seeds", type=click.IntRange(1, 64), help=f"Images per prompt.  {_default('seeds')}")
@click.option("--variants", default="", help="Comma-separated; of tune, presets.  [default: all]")
@click.option("--conditions", default="", help="said or unsaid.  [default: both]")
@click.option(
    "--tuned",
    type=click.Path(dir_okay=False),
    metavar="CSV",
    help="Table of tune with each preset's best settings.",
)
@click.option(
    "--out",
    default="work/studies",
    show_default=True,
    type=click.Path(file_okay=False),
    help="Folder of the results.",
)
@click.option("--power", is_flag=True, help="Print what the design can detect, and stop.")
@click.option(
    "--rows",
    default="docs/studies",
    show_default=True,
    type=click.Path(file_okay=False),
    metavar="FOLDER",
    help="Tables that --power reads.",
)
@click.option("--table-only", is_flag=True, help="Compute nothing; use what the store holds.")
@click.option("--fresh", is_flag=True, help="Discard the rows of earlier sessions.")
@click.pass_context
def study(
    context: click.Context,
    config: NightlyConfig,
    name: str | None,
    people: int | None,
    seeds: int | None,
    variants: str,
    conditions: str,
    tuned: str | None,
    out: str,
    power: bool,
    rows: str,
    table_only: bool,
    fresh: bool,
) -> None:
    """Every variant of STUDY is run on the same identities and prompts, and the variants are compared.

    Studies of the paper's claims do so with the framing said in the training prompt, and unsaid. A variant is an ordinary
    run, cached in the store: an interrupted study goes on where it stopped, and shared variants are computed once. The
    folder --out gets STUDY.csv, STUDY.md and STUDY.svg. Rows of an earlier session with the same settings are kept.

    \b
    Examples:
      faceid study --power
      faceid study presets --tuned work/studies/tune.csv
    """
    if power:
        _print_power([name] if name else list(studies()), config, people, seeds, Path(rows))
        return
    if name is None:
        raise click.UsageError("Missing argument 'STUDY'; only --power goes without, for all studies.")
    from faceid_core.studies.run import run_study
    from faceid_core.studies.tuned import read_tuned

    about = studies()[name]
    console = Console(highlight=False)
    if about.selects and not any(each.startswith("score.scorers=") for each in context.params["settings"]):
        config = changed(config, {"score.scorers": SELECTION_SCORERS[0]}, source="study")
    result = run_study(
        about,
        config,
        people=people or about.people,
        seeds=seeds or about.seeds,
        names=_words(variants),
        conditions=_words(conditions),
        tuned=read_tuned(Path(tuned), studies()["tune"]) if tuned else {},
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


def _print_power(
    names: list[str], config: NightlyConfig, people: int | None, seeds: int | None, rows: Path
) -> None:
    """Print what the design can detect in each study; of all studies, in those that have a table."""
    from faceid_core.evaluate.grid import load_grid
    from faceid_core.studies.design import Design, power_lines

    prompts = len(load_grid(config.generate.grid).prompts)
    for name in names:
        about = studies()[name]
        if about.of_pairs:
            click.echo(f"{name}: its rows are of two people; --power is of studies of people\n")
            continue
        if len(names) > 1 and not (rows / f"{name}.csv").is_file():
            click.echo(f"{name}: no table in {rows}\n")
            continue
        design = Design(people or about.people, prompts, seeds or about.seeds)
        for line in power_lines(about, design, rows):
            click.echo(line)


def _words(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _start_run(config: NightlyConfig, console: Console):
    from flows.console import ConsoleReporter

    with watched(), ConsoleReporter(console) as reporter:
        run, _ = start_run(config, reporter)
    return run
