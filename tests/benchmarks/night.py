"""A whole night from nothing: 8, 32 and 128 miniature people, 20 training steps and 4 pictures each.

Compared: nights of different size with each other. The seconds should lie on a line, peak memory should be flat, and
the time beyond start-up outside the stages (opening, lookups, accounts, pages, tables) should be small.

Fair: every night is the ordinary command in a process of its own with a fresh store, preset, scorers, floor and
ceiling at their defaults, and a grid of two prompts with two seeds. Nights of different size take turns. Start-up is
what the number of people has no part in: interpreter and imports, with `--executor ray` also Prefect's server and Ray.
Inside the stages is whatever a worker does: reading inputs, computing, committing; with ray it is the time in which the
pool had work, so that Ray's own messages count as stages there, and the memory is that of the driver only.
"""

from __future__ import annotations

import shutil

from .measuring import Line, alternate, line_through, spread
from .nights import Seen, brevity, run_night, write_grid, write_people
from .results import Row, absent
from .settings import Settings

NAME = "night"
SIZES = (8, 32, 128)
STEPS, PROMPTS, SEEDS = 20, 2, 2


def run(settings: Settings) -> list[Row]:
    """All sizes up to `--people`, in turn."""
    most = settings.people or (6 if settings.quick else SIZES[-1])
    sizes = [size for size in SIZES if size <= most]
    if len(sizes) < 2:
        sizes = [max(1, most // 2), most]
    nights: dict[int, list[Seen]] = {size: [] for size in sizes}

    def measure(size: int) -> float:
        nights[size].append(cold_night(settings, size))
        return nights[size][-1].seconds

    found = alternate({size: lambda size=size: measure(size) for size in sizes}, settings.repeats, warm=0)
    medians = [spread(found[size]).median for size in sizes]
    line = line_through(sizes, medians)
    rows = []
    for size in sizes:
        rows += _of_one_size(size, nights[size], settings)
    return [*rows, *_of_all(sizes, nights, line)]


def cold_night(settings: Settings, people: int) -> Seen:
    """One night into a store that is not there yet."""
    manifest = write_people(settings.scratch / f"people-{people}", people)
    store = settings.scratch / f"cold-{people}"
    shutil.rmtree(store, ignore_errors=True)
    return run_night(
        settings,
        *("--store", str(store), "--identities", str(manifest)),
        *("--method-steps", str(STEPS), "--generate-grid", str(write_grid(settings.scratch, PROMPTS))),
        *("--generate-seeds", str(SEEDS), *brevity(settings)),
    )


def _of_one_size(size: int, nights: list[Seen], settings: Settings) -> list[Row]:
    share = [night.orchestration / night.beyond_start_up for night in nights]
    case, last = f"{size} people, {settings.executor}", nights[-1]
    rows = [
        Row(NAME, f"{case}: whole night", "s", spread([night.seconds for night in nights]), note=last.told()),
        Row(NAME, f"{case}: start-up", "s", spread([night.start_up for night in nights])),
        Row(NAME, f"{case}: outside the stages", "of the rest", spread(share), ("at most", 0.03)),
    ]
    if last.peak_bytes:
        peaks = [night.peak_bytes / 2**20 for night in nights]
        rows.append(Row(NAME, f"{case}: peak memory", "MiB", spread(peaks)))
    return rows


def _of_all(sizes: list[int], nights: dict[int, list[Seen]], line: Line) -> list[Row]:
    each = spread([line.each])
    told = f"{line.start:.1f} s + {line.each:.3f} s for each person"
    rows = [Row(NAME, "seconds for each further person", "s", each, note=told)]
    if len(sizes) > 2:
        off = spread([line.deviation])
        rows.append(Row(NAME, "largest distance from the line", "of the night", off, ("at most", 0.1)))
    else:
        rows.append(absent(NAME, "largest distance from the line", "two sizes always lie on a line"))
    if nights[sizes[0]][0].peak_bytes:
        peaks = [spread([night.peak_bytes for night in nights[size]]).median for size in sizes]
        case = f"peak memory, {sizes[-1]} people over {sizes[0]}"
        rows.append(Row(NAME, case, "x", spread([peaks[-1] / peaks[0]]), ("at most", 1.1)))
    return rows
