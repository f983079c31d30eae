"""faceid prepare: detect, crop and mask photos without a run.

What detects is imported in the function: it loads OpenCV, which the help page does not need.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from faceid_core.config import NightlyConfig, changed
from faceid_core.errors import ConfigurationError
from faceid_core.outcomes import EXIT_INTERRUPTED
from faceid_core.private import FOLDER_MODE
from flows.options import parse_setting_option, takes_config

if TYPE_CHECKING:
    from faceid_core.identity import Identity
    from faceid_core.photo_folder import LeftOut
    from faceid_core.prepare.check import CheckedPhoto
    from faceid_core.prepare.differences import Difference

USUAL_CROP_PIXELS = 512
_AGAINST = "against"


@dataclass
class _Request:
    """What is checked, and how: the parts of the command that both settings share."""

    people: Sequence[Identity]
    left_out: Sequence[LeftOut]
    files: dict[str, str]
    lines: dict[str, int | None]
    pixels: int
    jobs: int
    pictures: bool


@dataclass
class _Checked:
    """What came of one setting.

    Args:
        done: results in the manifest's order.
        new: how many were not known from an earlier call.
        interrupted: whether photos are left.
    """

    done: list[CheckedPhoto] = field(default_factory=list)
    new: int = 0
    seconds: float = 0.0
    interrupted: bool = False


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
    "--jobs", default=0, type=click.IntRange(0, 256), help="Processes.  [default: one for each CPU]"
)
@click.option(
    "--pictures/--no-pictures", default=True, show_default=True, help="Also a picture per identity."
)
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV of sha256 and label (good, either, or why a photo is to be rejected): compares them with the outcomes.",
)
@click.option(
    "--against",
    multiple=True,
    metavar="KEY=VALUE",
    help="Also try the photos with this setting, as in faces.detector=opencv, and show where the two differ. May be "
    "repeated.",
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
    against: tuple[str, ...],
) -> None:
    """Photos are tried by the limits of the configuration. The folder --out gets a table of figures and outcomes, a
    sheet of thumbnails, a page of rejections with their reasons, and a picture per identity of box, landmarks, crop,
    classes and mask. It is as private as the photos.

    Rows are written as photos are done. After an interruption, or when photos were added or exchanged, the same command
    goes on: what has not changed is not computed again.

    No store is needed and nothing is downloaded. Without --config, photos are taken for photographs (--faces
    deepface).
    """
    from faceid_core.identity import is_folder_of_photos
    from faceid_core.prepare.labels import read_labels, summarize
    from flows import photo_display

    other = dict(parse_setting_option(each, option="--against") for each in against)
    said = read_labels(labels) if labels is not None else None
    pixels = size or (_crop_pixels(config) if context.params["config_file"] else USUAL_CROP_PIXELS)
    request = _request(photos, pixels, jobs, pictures)
    folder = _folder(out)
    _require_apart(request.people, folder)
    first = _check(request, config, folder)
    _print_summary(request, first, folder)
    if is_folder_of_photos(Path(photos)):
        photo_display.print_made_ids(request.people, request.files)
    if said is not None:
        photo_display.print_labels(summarize(said, first.done))
    interrupted = first.interrupted
    if other and not interrupted:
        second_config = changed(config, other, source="--against")
        interrupted = _compare(request, config, first, second_config, folder, ", ".join(against))
    if interrupted:
        raise click.exceptions.Exit(EXIT_INTERRUPTED)


def _request(photos: str, pixels: int, jobs: int, pictures: bool) -> _Request:
    from faceid_core.identity import is_folder_of_photos, read_folder, read_manifest
    from faceid_core.prepare.results import file_names

    path = Path(photos)
    left_out: Sequence[LeftOut] = ()
    if is_folder_of_photos(path):
        people, left_out = read_folder(path)
    else:
        people = read_manifest(photos)
    files = file_names(people, path if path.is_dir() else path.parent)
    lines = {person.identity_id: person.line for person in people}
    return _Request(people, left_out, files, lines, pixels, jobs, pictures)


def _require_apart(people: Sequence[Identity], folder: Path) -> None:
    """Refuse to write where the photos lie: one file would replace the other, and results would be taken for photos."""
    from faceid_core.prepare.kept import PICTURES, THUMBNAILS

    written = {Path(os.path.realpath(folder / name)) for name in ("", PICTURES, THUMBNAILS)}
    # `realpath`, unlike `resolve`, takes a link to itself.
    lie_in = {Path(os.path.realpath(each.photo)).parent for each in people if "://" not in each.photo}
    for place in sorted(written & lie_in):
        raise ConfigurationError(f"photos lie in {place}, where this command would write; choose another --out")


def _check(request: _Request, config: NightlyConfig, folder: Path, label: str = "photos") -> _Checked:
    """Check all photos with one setting and write what comes of it."""
    from faceid_core.prepare.check import CheckSettings, check_photos
    from faceid_core.prepare.kept import PICTURES, KeptResults
    from faceid_core.prepare.results import GrowingTable
    from flows.photo_display import show_progress

    own = folder / PICTURES if request.pictures else None
    if own is not None:
        own.mkdir(mode=FOLDER_MODE, exist_ok=True)
    settings = CheckSettings.of(config, size=request.pixels, pictures=own)
    kept = KeptResults(folder, settings.digest(), own, {person.identity_id for person in request.people})
    table = GrowingTable(folder, request.files, request.lines)
    found, begun = _Checked(), time.monotonic()
    checked = check_photos(request.people, settings, jobs=request.jobs, known=kept.known)
    try:
        for one in show_progress(checked, len(request.people), request.files, label=label):
            found.new += kept.known.get(one.identity_id) is not one
            table.add(one)
            found.done.append(kept.add(one))
    except KeyboardInterrupt:
        found.interrupted = True
    finally:
        checked.close()
        table.close()
        kept.close()
    found.seconds = time.monotonic() - begun
    order = {person.identity_id: place for place, person in enumerate(request.people)}
    found.done.sort(key=lambda one: order[one.identity_id])
    _write(request, config, folder, found)
    return found


def _write(
    request: _Request, config: NightlyConfig, folder: Path, found: _Checked, differ: Sequence[Difference] = ()
) -> None:
    from faceid_core.prepare.kept import read_thumbnail
    from faceid_core.prepare.results import write_results

    write_results(
        folder,
        found.done,
        _about(config, request.pixels),
        files=request.files,
        lines=request.lines,
        left_out=request.left_out,
        thumbnail=lambda identity_id: read_thumbnail(folder, identity_id),
        differences=differ,
    )


def _print_summary(request: _Request, found: _Checked, folder: Path) -> None:
    from faceid_core.prepare.results import summarize_reasons
    from flows import photo_display

    photo_display.print_reasons(summarize_reasons(found.done, request.left_out, request.files))
    usable = sum(one.outcome == "usable" for one in found.done)
    known = len(found.done) - found.new
    speed = f"; {found.new / found.seconds:.1f} photos a second" if found.new else ""
    before = f"; {known} as an earlier call found them" if known else ""
    click.echo(
        f"{usable} of {len(found.done)} photos are usable{speed}{before}; table, sheet and page in {folder}/"
    )
    if found.interrupted:
        left = len(request.people) - len(found.done)
        click.echo(f"Interrupted: {left} photos are left. The same command goes on with them.")


def _compare(
    request: _Request,
    config: NightlyConfig,
    first: _Checked,
    other: NightlyConfig,
    folder: Path,
    name: str,
) -> bool:
    """Check the photos with the other setting, too, and show where the two differ; returns whether it was interrupted."""
    from faceid_core.prepare.differences import count_pairs, differences, write_differences
    from flows.photo_display import print_differences

    second = _check(request, other, _folder(str(folder / _AGAINST)), f"photos, {name}")
    by_id = {one.identity_id: one for one in second.done}
    found = differences(first.done, by_id, request.files)
    write_differences(folder, found)
    _write(request, config, folder, first, found)
    about = _about(config, request.pixels)
    print_differences(count_pairs(first.done, by_id), found, (about.get("detector", "these settings"), name))
    seconds = [sum(one.seconds for one in each.done) / max(1, len(each.done)) for each in (first, second)]
    click.echo(
        f"Seconds a photo: {seconds[0]:.2f} and {seconds[1]:.2f}. "
        f"All differences: {folder}/differences.csv and the page. "
        f"The other settings' table and page: {folder / _AGAINST}/"
    )
    return second.interrupted


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
