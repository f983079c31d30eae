"""A prompt for SQL over the tables: `faceid query --open`."""

from __future__ import annotations

import sys

import click

from faceid_core.errors import ConfigurationError
from faceid_core.tables import Tables
from faceid_core.tables.sql import arrow_of, require_reading
from flows.query_output import rows_as


def run_shell(tables: Tables, *, locked: bool) -> None:
    """Read statements that end with a semicolon, and print their rows, until the input ends or says `.quit`.

    All statements see the tables as they were at the start.
    """
    import duckdb

    if sys.stdin.isatty():
        import readline  # noqa: F401  # the arrow keys and the history of `input`

        click.echo("tables and views: SHOW TABLES; columns: DESCRIBE people; end: .quit")
    with tables.connect(locked=locked) as connection:
        for sql in _statements():
            try:
                if locked:
                    require_reading(connection, sql)
                relation = connection.sql(sql)
                if relation is not None:
                    click.echo(rows_as("table", arrow_of(relation)), nl=False)
            except (duckdb.Error, ConfigurationError) as error:
                click.echo(str(error), err=True)


def _statements():
    waiting = ""
    while True:
        try:
            line = input(("   ...> " if waiting else "faceid> ") if sys.stdin.isatty() else "")
        except EOFError:
            if waiting.strip():
                yield waiting
            return
        if not waiting and line.strip() in (".quit", ".exit"):
            return
        waiting += line + "\n"
        if line.rstrip().endswith(";"):
            yield waiting
            waiting = ""
