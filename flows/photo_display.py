"""What faceid prepare shows: a line for each photo as it is done, the time left, and tables at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from faceid_core.photo_folder import printable
from faceid_core.report.figures import duration

if TYPE_CHECKING:
    from faceid_core.identity import Identity
    from faceid_core.prepare.check import CheckedPhoto
    from faceid_core.prepare.differences import Difference
    from faceid_core.prepare.labels import LabelSummary
    from faceid_core.prepare.results import ReasonSummary

# Of more photos, only those that need attention get a line.
_MOST_LINES = 40
_REPORT_SECONDS = 30.0


def show_progress(
    checked: Iterable[CheckedPhoto], total: int, files: Mapping[str, str], *, label: str = "photos"
) -> Iterator[CheckedPhoto]:
    """Pass results on; each gets a line as it is done, beneath them a bar with the time left.

    Where standard output is no terminal, a line with the time left comes every half minute.

    Args:
        checked: results as they come.
        total: how many there will be.
        files: by identity id, the name of the photo's file.
        label: what is counted.
    """
    console = Console(highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    begun = reported = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        for done, one in enumerate(checked, start=1):
            yield one
            if total <= _MOST_LINES or one.outcome != "usable":
                console.print(_line(one, files), soft_wrap=True, markup=False)
            bar.advance(task)
            now = time.monotonic()
            if not console.is_terminal and now - reported >= _REPORT_SECONDS:
                left = (now - begun) / done * (total - done)
                click.echo(f"{done} of {total} {label}, about {duration(left)} left")
                reported = now


def _line(one: CheckedPhoto, files: Mapping[str, str]) -> str:
    outcome = f"{one.outcome}: {one.reason}" if one.reason else one.outcome
    return f"{files.get(one.identity_id, one.identity_id)}  {outcome}  {one.sentence}".rstrip()


def print_reasons(found: Sequence[ReasonSummary]) -> None:
    """The number of photos of each reason, with examples and what to do."""
    table = Table("outcome", "reason", "photos", "such as", "what to do")
    for each in found:
        is_usable = each.outcome == "usable"
        examples = ", ".join(each.examples) + (" ..." if each.photos > len(each.examples) else "")
        table.add_row(
            each.outcome.replace("_", " "),
            each.reason,
            str(each.photos),
            _escaped(examples),
            "" if is_usable else _escaped(each.sentence),
        )
    Console(highlight=False).print(table)


def print_made_ids(people: Sequence[Identity], files: Mapping[str, str]) -> None:
    """Name the files of a folder whose ids are not their names."""
    names = {each.identity_id: files[each.identity_id] for each in people}
    made = [(name, id_) for id_, name in names.items() if id_ not in (Path(name).stem, Path(name).parent.name)]
    shown = ", ".join(f"{printable(name)!r} is {id_}" for name, id_ in made[:_MOST_LINES])
    more = f", and {len(made) - _MOST_LINES} more" if len(made) > _MOST_LINES else ""
    if made:
        click.echo(f"Ids made from names: {shown}{more}")


def print_labels(found: Sequence[LabelSummary]) -> None:
    """What became of the photos of each label."""
    table = Table("label", "photos", "accepted", "eyes misplaced", "masks ok", "reasons of the others")
    for row in found:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(row.reasons.items()))
        table.add_row(
            row.label, str(row.photos), str(row.accepted), str(row.misplaced), str(row.masks_ok), reasons
        )
    Console(highlight=False).print(table)


def print_differences(
    pairs: Sequence[tuple[str, str, int]], found: Sequence[Difference], names: tuple[str, str]
) -> None:
    """How many photos have which two outcomes, and the photos on which two settings differ."""
    console = Console(highlight=False)
    table = Table(*map(_escaped, names), "photos")
    for mine, other, count in pairs:
        table.add_row(mine, other, str(count))
    console.print(table)
    apart = [each for each in found if each.first == each.second]
    console.print(
        f"{len(found) - len(apart)} photos are judged differently, and in {len(apart)} that both accept the eyes lie in "
        "different places:" if found else "The two settings differ in no photo.",
        soft_wrap=True,
    )  # fmt: skip
    for each in found[:_MOST_LINES]:
        eyes = f"  eyes {each.eyes_apart:.2f} of their distance apart" if each.eyes_apart else ""
        console.print(f"{each.file}  {each.first} | {each.second}{eyes}", soft_wrap=True, markup=False)
    if len(found) > _MOST_LINES:
        console.print(f"and {len(found) - _MOST_LINES} more")


def _escaped(text: str) -> str:
    from rich.markup import escape  # names of files may look like markup

    return escape(text)
