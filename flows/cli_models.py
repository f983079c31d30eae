"""faceid models: fetch the weights that a configuration needs, which nothing else downloads; lock those that ship."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, as_configuration
from faceid_core.outcomes import EXIT_CONFIGURATION
from faceid_core.progress import no_progress
from flows.options import takes_config


@click.group()
def models() -> None:
    """The models of the miniature ship with the project; those for photographs are fetched once."""


@models.command("lock")
def lock() -> None:
    """Record the digests of the shipped models in models.lock.

    A changed model changes every stage key that uses it.
    """
    from faceid_core.weights.lock import SHIPPED, write_lock

    folders = {folder.name: folder for folder in sorted(SHIPPED.parent.iterdir()) if folder.is_dir()}
    written = write_lock(SHIPPED, folders)
    for name in sorted(folders):
        click.echo(f"{name:<12} {written.digest(name)}")
    click.echo(f"wrote {SHIPPED}")


@models.command("fetch")
@click.argument("names", nargs=-1)
@takes_config()
@click.option(
    "--to",
    "target",
    help="Folder or s3://bucket/prefix to fetch to.  [default: the configuration's weights]",
)
@click.option(
    "--from",
    "origin",
    help="Folder, s3:// or http(s):// address that an earlier fetch filled.  [default: where each was published]",
)
def fetch(config: NightlyConfig, names: tuple[str, ...], target: str | None, origin: str | None) -> None:
    """Fetch the models that a configuration needs, or NAMES, and lock them.

    NAMES are those of DeepFace and CLIP: Dlib, SFace, ArcFace, ViT-B/32, yunet, ... The base model is the one of
    base_model.source. Each file is checked against its published digest, or the lock of --from; without either, the
    first fetch records the digest in models.lock. After an interruption, the same command goes on. Set the
    configuration's weights to --to, so that runs find the files.

    \b
    Examples:
      faceid models fetch --config run.yaml
      faceid models fetch ArcFace ViT-B/32 --to /models
      faceid models fetch --set base_model.source=sd15 --to s3://bucket/weights
    """
    # The store and the models' modules take half a second to import, which `--help` does without.
    from faceid_core.weights.fetch import fetch as fetch_models
    from faceid_core.weights.place import WeightsPlace
    from faceid_core.weights.required import named
    from faceid_core.weights.status import model_statuses

    target = target or config.weights
    if not target:
        raise ConfigurationError("where to? give --to FOLDER or --to s3://bucket/prefix, or set weights")
    s3 = config.s3.settings()
    wanted = named(names) if names else [each.model for each in model_statuses(config) if each.model]
    console = Console(highlight=False)
    with console.status("") as status, as_configuration():

        def show(name: str, done: int, total: int | None) -> None:
            status.update(f"{name}: {done / 1e6:,.0f} of {f'{total / 1e6:,.0f}' if total else '?'} MB")

        found = fetch_models(
            wanted,
            WeightsPlace(target, s3),
            origin=WeightsPlace(origin, s3) if origin else None,
            progress=show if sys.stderr.isatty() else no_progress,
            precision=config.base_model.precision,
        )
    table = Table()
    for name in ("model", "state", "MB", "digest"):
        table.add_column(name, no_wrap=True)
    table.add_column("where", overflow="fold")
    for each in found:
        size = f"{each.bytes / 1e6:,.1f}" if each.bytes else ""
        state = each.state
        if each.resumed_from:
            state += f", from {each.resumed_from / 1e6:,.1f} MB on"
        table.add_row(each.name, state, size, each.digest[:12], escape(each.sentence))
    shipped = [] if names else [each for each in model_statuses(config) if each.model is None]
    for each in shipped:
        table.add_row(each.name, each.state, "", "", escape(each.detail))
    console.print(table)
    failed = [each.name for each in found if each.state == "failed"]
    missing = [each.name for each in shipped if each.state == "missing"]
    if failed or missing:
        console.print(f"not here: {', '.join([*failed, *missing])}", style="red")
        raise click.exceptions.Exit(EXIT_CONFIGURATION)
    if not found:
        console.print("this configuration needs nothing that does not ship")
