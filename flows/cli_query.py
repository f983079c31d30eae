"""Commands that read a store: status, query, key, tables, sheet. They refuse a store that does not exist.

Tables and pictures are imported in the functions: they load deltalake, duckdb, pandas or OpenCV, which status and key
do not need.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from faceid_core.config import NightlyConfig, store_options
from faceid_core.errors import ConfigurationError, ObjectMissing
from faceid_core.private import write_private
from flows.options import takes_config

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from faceid_core.store import ObjectStore

FORMATS = ("table", "csv", "json", "parquet")
CHOICES = ("extremes", "worst", "best", "first")
_MOST_PEOPLE = 100  # whom a terminal lists one by one


def _tables(config: NightlyConfig):
    from faceid_core.run.store_access import open_existing
    from faceid_core.tables import Tables

    return Tables(open_existing(config))


def _find_run(config: NightlyConfig, run_id: str | None) -> tuple:
    """The store, and request and status of a run (the latest by default); status None if none was recorded.

    Raises:
        ConfigurationError: the store holds no such run.
    """
    from faceid_core.run.records import read_request, read_status, run_ids
    from faceid_core.run.store_access import open_existing

    store = open_existing(config)
    known = [run_id] if run_id else run_ids(store)  # which run is the latest takes a look at all
    try:
        if not known:
            raise ObjectMissing("runs/")
        found = known[-1]
        request = read_request(store, found)
    except ObjectMissing:
        known = run_ids(store)
        if not known:
            raise ConfigurationError(
                f"{config.store} holds no run yet; start one with: faceid run {store_options(config)}"
            ) from None
        raise ConfigurationError(
            f"{config.store} holds no run {run_id!r}; it holds {', '.join(known[-5:])}"
        ) from None
    try:
        return store, request, read_status(store, found)
    except ObjectMissing:
        return store, request, None


def _without_status(request: dict) -> str:
    return (
        f"run {request['run_id']} started at {request['started_at']} but recorded no status: it died before its "
        "first stage, or is starting just now"
    )


def _waiting_lines(store: ObjectStore) -> list[str]:
    """A line for each run that waits for the store; it has no record of its own yet."""
    from faceid_core.store.lease import NAME, RunLease, waiting_runs

    waiting = waiting_runs(store)
    holder = RunLease.look(store, NAME).record if waiting else None
    held_by = "the store" if holder is None or holder.released else holder.who
    return [f"{record.who} waits for {held_by}" for record in waiting]


@click.command()
@click.argument("run_id", required=False)
@takes_config("store")
def status(run_id: str | None, config: NightlyConfig) -> None:
    """The state of RUN_ID (default: the latest) is printed with the reasons, counted, the outcome of each identity (of
    more than 100 the unfinished ones), and which runs wait for the store. Only the store is read, so this works during
    a run, after it, and without Prefect.
    """
    from rich.console import Console

    store, request, record = _find_run(config, run_id)
    console = Console(highlight=False)
    for text in () if run_id else _waiting_lines(store):
        console.print(text, markup=False, soft_wrap=True)
    if record is None:
        console.print(_without_status(request), soft_wrap=True, markup=False)
        return
    console.print(
        f"run {request['run_id']}: {record['state']}, as of {record['at']}, started {request['started_at']}",
        markup=False,
    )
    console.print(
        ", ".join(f"{count} {name}" for name, count in record["outcomes"].items() if count)
        or "no identity finished",
        markup=False,
    )
    _print_people(console, record["people"])
    for name, message in record["common_failures"].items():
        console.print(f"{name}: {message}", markup=False)


def _print_people(console: Console, people: Sequence[Mapping]) -> None:
    """Each reason once, with its identities counted and one sentence; then the identities, of many the unfinished."""
    from rich.markup import escape
    from rich.table import Table

    from flows.console import name_column

    reasons: dict[tuple, list[Mapping]] = {}
    for person in people:
        if person["message"] or person["reason"]:
            place = person["outcome"] or "under way", person["stage"] or "", person["reason"] or ""
            reasons.setdefault(place, []).append(person)
    for (outcome, stage, reason), found in sorted(reasons.items(), key=lambda each: -len(each[1])):
        where = ": ".join(filter(None, (stage, reason)))
        sentence = found[0]["message"] or ""
        example = " for example:" if len({person["message"] for person in found}) > 1 else ""
        told = ", ".join(filter(None, (outcome.replace("_", " "), where)))
        console.print(f"{len(found)} {told};{example} {sentence}", markup=False, soft_wrap=True)
    is_many = len(people) > _MOST_PEOPLE
    shown = [each for each in people if not is_many or each["outcome"] not in ("done", "cached")]
    table = Table(padding=(0, 1, 0, 0))
    name_column(table, "identity key", [person["identity_key"] for person in shown])
    for title in ("outcome", "stage", "reason"):
        table.add_column(title)
    table.add_column("seconds", justify="right")
    for person in shown[:_MOST_PEOPLE]:
        table.add_row(
            person["identity_key"],
            escape((person["outcome"] or "under way").replace("_", " ")),
            escape(person["stage"] or ""),
            escape(person["reason"] or ""),
            f"{person['seconds']:.1f}",
        )
    if shown:
        console.print(table)
    left = len(people) - min(len(shown), _MOST_PEOPLE)
    if left:
        console.print(f'and {left} more: faceid query "select identity_id, outcome, reason from latest"', soft_wrap=True)


@click.command()
@click.argument("sql", required=False)
@takes_config("store")
@click.option("--file", "file", type=click.Path(dir_okay=False, exists=True), help="Read the SQL from a file.")
@click.option("--format", "kind", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False), help="Write a file, the owner's alone, in place of the output.")
@click.option("--open", "shell", is_flag=True, help="Open a prompt for SQL.")
@click.option(
    "--unlocked",
    is_flag=True,
    help="Run statements of every kind, with access to files, the network and extensions.",
)
def query(
    sql: str | None,
    config: NightlyConfig,
    file: str | None,
    kind: str,
    out: str | None,
    shell: bool,
    unlocked: bool,
) -> None:
    """SQL is DuckDB's dialect; `-`, or nothing where the input is no terminal, reads it from the input. The tables are
    runs, identity_outcomes, images, image_metrics and identity_summary; the views latest, latest_two, current,
    current_runs, people, by_run, scores, floor_scores, stage_results and normalized_identities. Only statements that
    read are run, on these alone.

    \b
    Examples:
      faceid query "select identity_id, leakage from latest"
      faceid query --file questions.sql --format parquet --out answers.parquet
    """
    import duckdb

    from flows.query_output import rows_as

    if shell:
        if sql is not None or file is not None or out is not None or kind != "table":
            raise click.UsageError("--open reads statements by itself: leave out SQL, --file, --format and --out")
        from flows.query_shell import run_shell

        run_shell(_tables(config), locked=not unlocked)
        return
    if kind == "parquet" and out is None and sys.stdout.isatty():
        raise ConfigurationError("Parquet is no text; add --out FILE, or send the output to a file")
    try:
        found = _tables(config).query(_sql(sql, file), locked=not unlocked)
    except duckdb.PermissionException as error:
        hint = "" if unlocked else "; a query reaches the store's tables alone, --unlocked lets it reach more"
        raise ConfigurationError(f"the query cannot be run: {error}{hint}") from None
    except duckdb.Error as error:
        raise ConfigurationError(f"the query cannot be run: {error}") from None
    rows = rows_as(kind, found)
    if out is not None:
        write_private(out, rows)
    else:
        click.echo(rows, nl=False)


def _sql(sql: str | None, file: str | None) -> str:
    """The SQL of the argument, of a file or of the input. Raises ConfigurationError."""
    if file is not None:
        if sql is not None:
            raise ConfigurationError("the query is given twice; leave out SQL or --file")
        return _decoded(Path(file).read_bytes(), file)
    if sql is not None and sql != "-":
        return _decoded(os.fsencode(sql), "the query")
    if sql is None and sys.stdin.isatty():
        raise ConfigurationError("there is no query; give SQL, --file FILE or --open")
    return _decoded(sys.stdin.buffer.read(), "the input")


def _decoded(sql: bytes, what: str) -> str:
    try:
        return sql.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{what} is not UTF-8: {error}") from None


@click.command()
@click.argument("identity_id")
@takes_config("store")
def key(identity_id: str, config: NightlyConfig) -> None:
    """Paths, logs and the Prefect UI show this key in the place of IDENTITY_ID."""
    from faceid_core.identity import validate_identity_id
    from faceid_core.run.store_access import open_with_secret

    _, secret = open_with_secret(config)
    click.echo(secret.identity_key(validate_identity_id(identity_id)))


@click.group()
def tables() -> None:
    """faceid query reads the tables in place."""


@tables.command("export")
@click.argument("folder", type=click.Path(file_okay=False))
@takes_config("store")
def export(folder: str, config: NightlyConfig) -> None:
    """Write every table as a plain Parquet file into FOLDER."""
    for path in _tables(config).export(folder):
        click.echo(str(path))


@click.command()
@click.argument("run_id", required=False)
@takes_config("store")
@click.option(
    "--prompts", default="", help="Prompt ids, separated by commas.  [default: the first of each category]"
)
@click.option(
    "--people", default=6, show_default=True, type=click.IntRange(1, 100), help="How many identities."
)
@click.option(
    "--choose",
    type=click.Choice(CHOICES),
    default=CHOICES[0],
    show_default=True,
    help="Which ones, by normalized identity; first: in the manifest's order.",
)
@click.option("--identity", "identity_ids", multiple=True, help="An identity id. May be repeated.")
@click.option("--keys", is_flag=True, help="Label rows with identity keys in place of ids.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the images.")
@click.option(
    "--out", default="sheet.png", show_default=True, help="PNG to write; it shows people, so keep it private."
)
def sheet(
    run_id: str | None,
    config: NightlyConfig,
    prompts: str,
    people: int,
    choose: str,
    identity_ids: tuple[str, ...],
    keys: bool,
    seed: int,
    out: str,
) -> None:
    """Each identity of RUN_ID (default: the latest) is a row: the photo first, then its evaluation images with their
    identity similarity. An image that misses a concept of its prompt has a red frame.

    \b
    Examples:
      faceid sheet --people 10
      faceid sheet --identity ann --identity bob --prompts beach,snow
    """
    from faceid_core.publish.people_sheet import people_sheet
    from faceid_core.run.store_access import open_with_secret

    opened, request, record = _find_run(config, run_id)
    if record is None:
        raise ConfigurationError(f"{_without_status(request)}; name another run, or run again")
    wanted = [name.strip() for name in prompts.split(",") if name.strip()]
    secret = open_with_secret(config)[1] if identity_ids else None
    chosen = [] if secret is None else [secret.identity_key(each) for each in identity_ids]
    image = people_sheet(
        opened, record, prompts=wanted, people=people, choose=choose, identity_keys=chosen, names=not keys, seed=seed
    )
    write_private(out, image)
    click.echo(f"wrote {out}")
