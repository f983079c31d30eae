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
    published digest, or the lock of --from; where nobody published one, the first fetch settles it in models.lock.
    Interrupted, the same command goes on from there. A base model is named in base_model.source, as sd15, sdxl or
    hub:owner/name@revision; afterwards let weights be --to, and runs find everything there.
    """
    from faceid_core.weights.fetch import Place
    from faceid_core.weights.fetch import fetch as bring_all
    from faceid_core.weights.needs import named, needs_of, scorers_of

    config = load_config(config_file, {})
    target = target or config.weights
    if not target:
        raise ConfigurationError("where to? give --to FOLDER or --to s3://bucket/prefix, or set weights")
    s3 = config.s3.model_dump()
    if names:
        models = [model for _, model in named(names)]
    else:
        needs = needs_of(config)
        models = [model for _, model in scorers_of(config)]
        models += [
            each.model
            for each in needs
            if each.role in ("base model", "detector", "face parser") and each.model
        ]
    console = Console(highlight=False)
    with console.status("") as status, as_configuration():

        def tell(done: int, total: int | None) -> None:
            status.update(f"{done / 1e6:,.0f} of {f'{total / 1e6:,.0f}' if total else '?'} MB")

        found = bring_all(
            models,
            Place(target, s3),
            origin=Place(origin, s3) if origin else None,
            tell=tell if sys.stderr.isatty() else lambda done, total: None,
            precision=config.base_model.precision,
        )
    table = Table()
    for name in ("model", "state", "MB", "digest"):
        table.add_column(name, no_wrap=True)
    table.add_column("where", overflow="fold")
    for each in found:
        size = f"{each.bytes / 1e6:,.1f}" if each.bytes else ""
        state = each.state
        if each.went_on_from:
            state += f", from {each.went_on_from / 1e6:,.1f} MB on"
        table.add_row(each.name, state, size, each.digest[:12], escape(each.sentence))
    shipped = [] if names else [each for each in needs_of(config) if each.model is None]
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
