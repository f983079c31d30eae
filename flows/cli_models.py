"""faceid models fetch: brings the weights that a configuration needs; nothing else downloads anything."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from faceid_core.config import load_config
from faceid_core.errors import ConfigurationError, as_configuration
from faceid_core.outcomes import EXIT_CONFIGURATION
from faceid_core.progress import no_progress
from flows.cli_tools import models


@models.command("fetch", short_help="Bring the weights that a configuration needs.")
@click.argument("names", nargs=-1)
@click.option("--config", "config_file", type=click.Path(dir_okay=False), help="YAML file of the run.")
@click.option(
    "--to",
    "target",
    help="Folder or s3://bucket/prefix to bring them to.  [default: the file's weights]",
)
@click.option(
    "--from",
    "origin",
    help="Folder, s3:// or http(s):// address that an earlier fetch filled; default: where they were published.",
)
def fetch(names: tuple[str, ...], config_file: str | None, target: str | None, origin: str | None) -> None:
    """Bring the base model, scorers and detectors that a configuration needs, or the NAMES given, and lock them.

    NAMES are DeepFace's and CLIP's: Dlib, SFace, ArcFace, ViT-B/32, yunet, … Each file is checked against its
    published digest, or the lock of --from; where none is published, the first fetch settles it in models.lock.
    Interrupted, the same command goes on from there. A base model is named in base_model.source, as sd15, sdxl or
    hub:owner/name@revision; afterwards let weights be --to, and runs find everything there.
    """
    # The store and the models' modules take half a second to import, which `--help` does without.
    from faceid_core.weights.fetch import fetch as fetch_models
    from faceid_core.weights.place import WeightsPlace
    from faceid_core.weights.required import named
    from faceid_core.weights.status import model_statuses

    config = load_config(config_file, {})
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
