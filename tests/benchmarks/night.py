"""A whole run from nothing: 8, 32 and 128 miniature people, 20 training steps and 4 pictures each.

Compared: runs of different size with each other. The seconds should lie on a line, peak memory should be flat, and
the time beyond start-up outside the stages (opening, lookups, outcome reports, pages, tables) should be small.

Fair: every night is the ordinary command in a process of its own with a fresh store, preset, scorers, floor and
ceiling at their defaults, and a grid of two prompts with two seeds. Nights of different size take turns. Start-up is
what the number of people has no part in: interpreter and imports, with `--executor ray` also Prefect's server and Ray.
Inside the stages is whatever a worker does: reading inputs, computing, committing; with ray it is the time in which the
pool had work, so that Ray's own messages count as stages there, and the memory is that of the driver only.
"""

from __future__ import annotations

import shutil

from .measuring import Line, alternate, line_through, spread
from .results import Row, absent
from .runs import Seen, brevity, start_run, write_grid, write_people
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
    runs: dict[int, list[Seen]] = {size: [] for size in sizes}

    def measure(size: int) -> float:
        runs[size].append(cold_night(settings, size))
        return runs[size][-1].seconds

    found = alternate({size: lambda size=size: measure(size) for size in sizes}, settings.repeats, warm=0)
    medians = [spread(found[size]).median for size in sizes]
    line = line_through(sizes, medians)
    rows = []
    for size in sizes:
        rows += _of_one_size(size, runs[size], settings)
    return [*rows, *_of_all(sizes, runs, line)]


def cold_night(settings: Settings, people: int) -> Seen:
    """One night into a store that is not there yet."""
    manifest = write_people(settings.scratch / f"people-{people}", people)
    store = settings.scratch / f"cold-{people}"
    shutil.rmtree(store, ignore_errors=True)
    return start_run(
        settings,
        *("--store", str(store), "--identities", str(manifest)),
        *("--preset", "semantic-fidelity"),
        *("--set", f"personalize.method.steps={STEPS}", "--set", f"generate.seeds={SEEDS}"),
        *("--set", f"generate.grid={write_grid(settings.scratch, PROMPTS)}", *brevity(settings)),
    )


def _of_one_size(size: int, runs: list[Seen], settings: Settings) -> list[Row]:
    share = [run.orchestration / run.beyond_start_up for run in runs]
    case, last = f"{size} people, {settings.executor}", runs[-1]
    rows = [
        Row(NAME, f"{case}: whole run", "s", spread([run.seconds for run in runs]), note=last.told()),
        Row(NAME, f"{case}: start-up", "s", spread([run.start_up for run in runs])),
        Row(NAME, f"{case}: outside the stages", "of the rest", spread(share), ("at most", 0.03)),
    ]
    if last.peak_bytes:
        peaks = [run.peak_bytes / 2**20 for run in runs]
        rows.append(Row(NAME, f"{case}: peak memory", "MiB", spread(peaks)))
    return rows


def _of_all(sizes: list[int], runs: dict[int, list[Seen]], line: Line) -> list[Row]:
    each = spread([line.each])
    told = f"{line.start:.1f} s + {line.each:.3f} s for each person"
    rows = [Row(NAME, "seconds for each further person", "s", each, note=told)]
    if len(sizes) > 2:
        off = spread([line.deviation])
        rows.append(Row(NAME, "largest distance from the line", "of the run", off, ("at most", 0.1)))
    else:
        rows.append(absent(NAME, "largest distance from the line", "two sizes always lie on a line"))
    if runs[sizes[0]][0].peak_bytes:
        peaks = [spread([run.peak_bytes for run in runs[size]]).median for size in sizes]
        case = f"peak memory, {sizes[-1]} people over {sizes[0]}"
        rows.append(Row(NAME, case, "x", spread([peaks[-1] / peaks[0]]), ("at most", 1.1)))
    return rows
