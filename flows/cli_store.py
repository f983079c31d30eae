"""faceid store: brings a store of an earlier version of faceid to the present layout."""

from __future__ import annotations

import click

from faceid_core.config import NightlyConfig
from faceid_core.outcomes import EXIT_FAILURES
from faceid_core.store.secret import IdentitySecret
from flows.options import takes_config


@click.group()
def store() -> None:
    """A run refuses a store of another layout; a store of an earlier one is migrated once."""


@store.command("migrate")
@takes_config("store")
def migrate(config: NightlyConfig) -> None:
    """Bring a store to the present layout.

    Every result keeps its bytes and gets the stage key of this version, so no identity is learned again. Unfinished
    training is dropped. Rows of the tables keep the keys under which they were published, and get the columns
    of version 2. No run may use the store
    meanwhile; after an interruption, the same command goes on. Make a backup first: earlier versions of faceid cannot
    read the store afterwards. Exit status 2 if a manifest could not be read and was left in its place.

    \b
    Example:
      faceid store migrate --store s3://bucket/faceid
    """
    from rich.console import Console
    from rich.progress import Progress

    from faceid_core.store import open_store
    from faceid_core.store.layout import LAYOUT_VERSION
    from faceid_core.upkeep.migrate import migrate as migrate_store

    console = Console(highlight=False)
    opened = open_store(config.store, config.s3.settings())
    with Progress(console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task("scopes", total=None)
        found = migrate_store(
            opened,
            IdentitySecret.load(config.store, make=False),
            on_progress=lambda name, done, total: bars.update(task, completed=done, total=total),
        )
    if found.layout == LAYOUT_VERSION:
        console.print(f"{config.store} has layout {LAYOUT_VERSION} already", soft_wrap=True)
        return
    console.print(
        f"layout {found.layout} to {LAYOUT_VERSION}: {found.manifests} results have new keys, {found.runs} records of "
        f"runs name them, {sum(found.rows.values())} rows of the tables have new columns, {found.dropped} objects of "
        "unfinished training were removed",
        soft_wrap=True,
    )
    for name in found.unreadable:
        console.print(f"cannot be read, left in its place: {name}", soft_wrap=True, markup=False)
    if found.unreadable:
        console.print("faceid verify --repair sets them aside")
        raise click.exceptions.Exit(EXIT_FAILURES)
