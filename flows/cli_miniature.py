"""faceid miniature: draw, train and measure the synthetic world behind `make run`.

Renderer and trainers are imported in the functions: they load numpy, OpenCV and torch, which help pages do not need.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click

GENERATOR = ("tokenizer", "autoencoder", "decoder", "unet", "names")
FIGURES = ("gate", "names", "ceiling", "scorers-selection", "scorers-reporting")


@click.group()
def miniature() -> None:
    """The miniature is a renderer of people and scenes, and small models that were trained on its images."""


@miniature.command()
@click.option("--population", default="held-out", show_default=True,
              type=click.Choice(["named", "samples", "tuning", "held-out", "second-held-out"]))  # fmt: skip
@click.option("--people", default=24, show_default=True, type=click.IntRange(1, 256))
@click.option("--out", default="miniature.png", show_default=True, type=click.Path(dir_okay=False))
def sheet(population: str, people: int, out: str) -> None:
    """Render people as one PNG: for each the photo and three other shots."""
    import numpy as np

    from faceid_core.miniature import people as known
    from faceid_core.miniature.captions import caption
    from faceid_core.miniature.renderer import render, sample_shot
    from faceid_core.miniature.samples import POPULATIONS, portrait
    from faceid_core.report.contact_sheet import contact_sheet

    seeds = {"named": known.NAMED_SEEDS, "samples": known.SAMPLE_SEEDS, **POPULATIONS}[population]
    rows = []
    for seed in seeds[:people]:
        shots = [sample_shot(np.random.default_rng([seed, number])) for number in range(3)]
        pictures = [portrait(seed, pixels=64)]
        pictures += [render(known.person_from_seed(seed), shot).image for shot in shots]
        name = known.name_of(seed) if population == "named" else f"person {seed}"
        rows.append((f"{name}: the photo; " + "; ".join(caption(shot, "V*") for shot in shots), pictures))
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(contact_sheet(rows))
    click.echo(f"wrote {out}")


@miniature.command(context_settings={"ignore_unknown_options": True})
@click.argument("part")
@click.option("--minutes", type=float, help="Time budget.  [default: the trainer's]")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
def train(part: str, minutes: float | None, resume: bool, more: tuple[str, ...]) -> None:
    """Train one part of the miniature for a time budget.

    PART is tokenizer, autoencoder, decoder, unet, names, or a scorer by the name of its folder. MORE is passed to the
    trainer: --threads 1 for the generator's parts, --work FOLDER for scorers. The generator's parts write to
    work/miniature, and unet writes a whole pipeline there, which replaces the shipped one. Afterwards faceid models
    lock records the new weights.
    """
    from faceid_core.weights.catalog import MINIATURE_SETS

    scorers = sorted({name for chosen in MINIATURE_SETS.values() for name in chosen.values()})
    if part not in (*GENERATOR, *scorers):
        raise click.UsageError(
            f"no part is called {part!r}; train one of {', '.join((*GENERATOR, *scorers))}"
        )
    module = "train" if part in GENERATOR else "train_scorers"
    command = [sys.executable, "-m", f"faceid_core.miniature_training.{module}", part]
    command += ["--minutes", str(minutes)] if minutes is not None else []
    command += ["--resume"] if resume else []
    # In a process of its own: trainers set threads and number formats for the whole process.
    raise SystemExit(subprocess.run([*command, *more], check=False).returncode)


@miniature.command()
@click.option("--figures", default=",".join(FIGURES), show_default=True, help="Which, separated by commas.")
@click.option(
    "--people",
    type=click.IntRange(2, 256),
    help="Number of people.  [default: 100 gate, 64 names and ceiling, 200 scorers]",
)
@click.option(
    "--seeds",
    default=4,
    show_default=True,
    type=click.IntRange(1, 16),
    help="Images per prompt of the ceiling.",
)
@click.option("--grid", default="laboratory", show_default=True, help="Prompt grid of the ceiling.")
@click.option("--precision", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16"]))
@click.option("--out", default="work/miniature-card.json", show_default=True, type=click.Path(dir_okay=False))
def card(figures: str, people: int | None, seeds: int, grid: str, precision: str, out: str) -> None:
    """Measure autoencoder, names, ceiling and scorers, and write the figures as JSON."""
    from faceid_core.miniature_training.ceiling import GALLERY, measure_ceiling
    from faceid_core.miniature_training.measure import measure_gate, measure_pipeline
    from faceid_core.miniature_training.measure_scorers import SCORERS, SETS, measure
    from faceid_core.miniature_training.pipeline_folder import PIPELINE

    wanted = [name.strip() for name in figures.split(",") if name.strip()]
    unknown = sorted(set(wanted) - set(FIGURES))
    if unknown:
        raise click.UsageError(f"no figure is called {', '.join(unknown)}; use some of {', '.join(FIGURES)}")
    ranked = [name for name in wanted if name not in ("names", "ceiling")]
    if ranked and people is not None and people < GALLERY:
        raise click.UsageError(
            f"{', '.join(ranked)} rank a face among those of {GALLERY} people; ask for at least that many, or only "
            "for names and ceiling"
        )
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(target.read_text()) if target.is_file() else {}
    measures = {
        "gate": lambda: measure_gate(PIPELINE, SETS["reporting"], people=people or GALLERY),
        "names": lambda: measure_pipeline(PIPELINE, SETS["reporting"], people=people or 64),
        "ceiling": lambda: measure_ceiling(
            people=people or 64, seeds=seeds, grid=grid, precision=precision, progress=click.echo
        ),
    }
    for name, chosen in SETS.items():
        measures[f"scorers-{name}"] = lambda chosen=chosen: measure(
            people or 200, 10, lambda images: images, SCORERS, chosen
        )
    for name in wanted:
        click.echo(f"measuring {name}")
        found[name] = measures[name]()
        target.write_text(json.dumps(found, indent=2) + "\n")
        click.echo(json.dumps(found[name], indent=2))
    click.echo(f"wrote {target}; it keeps the figures that were not measured now")
