"""The benchmarks' command: `python -m tests.benchmarks [NAMES] [--quick] [--out FOLDER]`."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import click

from .results import Row, about_this_machine, broke, markdown, sentence, write_results
from .settings import Settings

# Name on the command line -> module; each has `NAME` and `run(settings)`, which gives its rows.
BENCHMARKS = {
    "throughput": "throughput",
    "seconds-per-person": "seconds_per_person",
    "ceiling": "ceiling",
    "gpu": "gpu",
    "pictures": "pictures",
    "night": "night",
    "cached-night": "cached_night",
    "startup": "startup",
    "large-store": "large_store",
    "photographs": "photographs",
    "tables": "tables",
    "scale": "scale",
}


@click.command(help="Run benchmarks (all, or those named) and write results.json and results.md.")
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--quick", is_flag=True, help="Small sizes, to try the code; the figures mean little.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("work/benchmarks"), show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=None, help="Kept rounds (3; 1 with --quick).")
@click.option("--people", type=click.IntRange(2), default=None, help="Most people of a run.")
@click.option("--threads", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True)
@click.option("--executor", type=click.Choice(["inline", "ray"]), default="inline", help="Of the runs.")
@click.option("--textual-inversion-script", "script", type=click.Path(exists=True, path_type=Path))
@click.option("--script-python", default="", help="Interpreter of the script; this one by default.")
@click.option("--script-batch", type=click.IntRange(1), default=10, show_default=True)
@click.option("--script-rate", type=float, default=0.06, show_default=True, help="Its learning rate.")
@click.option("--script-steps", type=click.IntRange(4), default=200, show_default=True)
@click.option(
    "--script-template", default="a photo of the face of {}", show_default=True, help="Empty: its own."
)
@click.option(
    "--device", type=click.Choice(["cuda", "cpu"]), default="cuda", help="Of gpu; cpu with --quick."
)
@click.option("--cuda-base", type=click.Path(exists=True, path_type=Path), help="Stable Diffusion folder.")
def main(names: tuple[str, ...], out: Path, repeats: int | None, **options) -> None:
    """Run, print and write; a benchmark that breaks is a row of its own and makes the exit status 1."""
    rows = []
    about = about_this_machine(options["threads"])
    print(sentence(about))
    with tempfile.TemporaryDirectory(prefix="faceid-benchmarks-") as scratch:
        settings = Settings(Path(scratch), repeats=repeats or (1 if options["quick"] else 3), **options)
        for name in names or BENCHMARKS:
            began = time.monotonic()
            print(f"{name} ...", file=sys.stderr, flush=True)
            found: list[Row] = []
            try:
                # One by one: what was measured before a benchmark breaks still tells something, and so do the others.
                for row in importlib.import_module(f"tests.benchmarks.{BENCHMARKS[name]}").run(settings):
                    found.append(row)
            except Exception as error:
                traceback.print_exc()
                found.append(broke(name, "the rest" if found else "all", error))
            rows += found
            print(f"\n{name}, {time.monotonic() - began:.0f} s\n\n{markdown(found)}", flush=True)
            write_results(out, about, rows)
    print("\n" + "\n".join(str(path) for path in write_results(out, about, rows)))
    sys.exit(1 if any(row.broke for row in rows) else 0)


if __name__ == "__main__":
    main()
