"""faceid prepare: detect, crop and mask photos without a run.

What detects is imported in the function: it loads OpenCV, which the help page does not need.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError
from faceid_core.private import FOLDER_MODE
from flows.options import takes_config

if TYPE_CHECKING:
    from faceid_core.identity import Identity
    from faceid_core.prepare.check import CheckedPhoto

USUAL_CROP_PIXELS = 512
# A longer list is read in the table and on the page.
_MOST_ROWS = 40


@click.command()
@click.option("--photos", required=True, help="Folder of photos, or identities.csv / .parquet.")
@takes_config(
    "faces.backend",
    "faces.detector",
    "faces.parser",
    "faces.parser_source",
    "faces.mask_region",
    without_file={"faces.backend": "deepface"},
)
@click.option(
    "--out", default="prepared", show_default=True, type=click.Path(file_okay=False), help="Folder to write."
)
@click.option(
    "--size",
    type=click.IntRange(32, 2048),
    help=f"Side of the crop, pixels.  [default: that of --config's base model, or {USUAL_CROP_PIXELS}]",
)
@click.option(
    "--jobs", default=0, type=click.IntRange(0, 256), help="Processes.  [default: one for each core]"
)
@click.option(
    "--pictures/--no-pictures", default=True, show_default=True, help="Also a picture per identity."
)
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV of sha256 and label (good, either, or why a photo is to be rejected): shows what of it came out.",
)
@click.pass_context
def prepare(
    context: click.Context,
    config: NightlyConfig,
    photos: str,
    out: str,
    size: int | None,
    jobs: int,
    pictures: bool,
    labels: Path | None,
) -> None:
    """Photos are tried by the limits of the configuration. The folder --out gets a table of figures and outcomes, a
    sheet of thumbnails, a page of rejections with their reasons, and a picture per identity of box, landmarks, crop,
    classes and mask. It is as private as the photos.

    No store is needed and nothing is downloaded. Without --config, photos are taken for photographs (--faces
    deepface).
    """
    from faceid_core.identity import MANIFEST_NAMES, read_manifest
    from faceid_core.prepare.check import CheckSettings, check_photos
    from faceid_core.prepare.results import write_results

    people = read_manifest(photos)
    folder = _folder(out)
    own = folder / "people"
    if pictures:
        own.mkdir(mode=FOLDER_MODE, exist_ok=True)
    pixels = size or (_crop_pixels(config) if context.params["config_file"] else USUAL_CROP_PIXELS)
    chosen = CheckSettings.of(config, size=pixels, pictures=own if pictures else None)
    begun = time.monotonic()
    tried = []
    with click.progressbar(length=len(people), label="photos", show_pos=True) as bar:
        for one in check_photos(people, chosen, jobs=jobs):
            tried.append(one)
            bar.update(1)
    seconds = time.monotonic() - begun
    order = {person.identity_id: place for place, person in enumerate(people)}
    tried.sort(key=lambda one: order[one.identity_id])
    write_results(folder, tried, _about(config, pixels))
    _print_outcomes(tried, folder, seconds)
    if Path(photos).is_dir() and not any((Path(photos) / name).exists() for name in MANIFEST_NAMES):
        _print_made_ids(people)
    if labels is not None:
        _print_labels(labels, people, tried)


def _print_outcomes(tried, folder: Path, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    from flows.console import name_column

    console = Console(highlight=False)
    # Where not all rows fit, the photos that need attention come first.
    shown = sorted(tried, key=lambda one: one.outcome == "usable") if len(tried) > _MOST_ROWS else tried
    table = Table()
    name_column(table, "identity", [one.identity_id for one in shown[:_MOST_ROWS]])
    for title in ("outcome", "reason", "what to do"):
        table.add_column(title)
    for one in shown[:_MOST_ROWS]:
        table.add_row(one.identity_id, one.outcome, one.reason, one.sentence)
    console.print(table)
    if len(tried) > _MOST_ROWS:
        console.print(f"and {len(tried) - _MOST_ROWS} more, in {folder}/prepared.csv", soft_wrap=True)
    usable = sum(one.outcome == "usable" for one in tried)
    console.print(
        f"{usable} of {len(tried)} photos are usable; {len(tried) / seconds:.1f} photos a second; table, sheet and page "
        f"in {folder}/",
        soft_wrap=True,
    )


def _print_made_ids(people: list[Identity]) -> None:
    """Name the files of a folder whose ids are not their names."""
    made = [
        (Path(one.photo).name, one.identity_id) for one in people if Path(one.photo).stem != one.identity_id
    ]
    shown = ", ".join(f"{name!r} is {id_}" for name, id_ in made[:_MOST_ROWS])
    more = f", and {len(made) - _MOST_ROWS} more" if len(made) > _MOST_ROWS else ""
    if made:
        click.echo(f"Ids made from names: {shown}{more}")


def _print_labels(path: Path, people: list[Identity], tried: list[CheckedPhoto]) -> None:
    from rich.console import Console
    from rich.table import Table

    from faceid_core.prepare.labels import read_labels, summarize

    outcomes = {one.identity_id: one for one in tried}
    checked = {
        hashlib.sha256(Path(person.photo).read_bytes()).hexdigest(): outcomes[person.identity_id]
        for person in people
        if Path(person.photo).is_file()
    }
    table = Table("label", "photos", "accepted", "eyes misplaced", "masks ok", "reasons of the others")
    for row in summarize(read_labels(path), checked):
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(row.reasons.items()))
        table.add_row(
            row.label, str(row.photos), str(row.accepted), str(row.misplaced), str(row.masks_ok), reasons
        )
    Console(highlight=False).print(table)


def _about(config: NightlyConfig, pixels: int) -> dict[str, str]:
    faces = config.faces
    about = {"faces": faces.backend, "crop": f"{pixels} px, {faces.crop_framing}", "mask": faces.mask_region}
    if faces.photographs:
        about |= {"detector": faces.detector_name, "parser": faces.parser}
    return about


def _folder(out: str) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write {out}: {error.strerror}; choose another --out") from None
    return folder


def _crop_pixels(config: NightlyConfig) -> int:
    """The side at which a run aligns faces: that of the base model's images."""
    from faceid_core.weights.describe import describe
    from faceid_core.weights.resolve import base_files

    files = base_files(config)
    return describe(files.folder, name=files.source, digest="", precision="float32").resolution
