"""Trying photographs: `faceid prepare` over folders of growing size, with one process and with one for each core.

Measured: whole commands, from just before they start, over variants of one photograph (moved, scaled, mirrored,
lightened, saved again at 0.3 to 3 megapixels; one in eight is no picture, blurred or too small, as in a real folder).
Processor time is that of the command and its processes; cores busy are that by the wall clock.

Fair: the same photos for each case; OpenCV's detector and GrabCut, crops of 512 pixels, no pictures of people written.
"""

from __future__ import annotations

import csv
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from .measuring import alternate, line_through, ratios, spread
from .results import Row
from .runs import ROOT, environment
from .settings import Settings

NAME = "photographs"
_PHOTOS = 500


def run(settings: Settings) -> list[Row]:
    """Each number of photos with each number of processes, in turn."""
    most = settings.people or (16 if settings.quick else _PHOTOS)
    numbers = sorted({max(2, most // 4), most // 2, most})
    cores = sorted({1, len(os.sched_getaffinity(0))})
    folders = {number: write_photos(settings.scratch / f"photos-{number}", number) for number in numbers}
    used: dict[tuple[int, int], list[float]] = {}

    def measure(number: int, jobs: int) -> float:
        seconds, processor_seconds = _prepare(settings, folders[number], number, jobs)
        used.setdefault((number, jobs), []).append(processor_seconds)
        return seconds

    cases = {
        (number, jobs): lambda number=number, jobs=jobs: measure(number, jobs)
        for number in numbers
        for jobs in cores
    }
    found = alternate(cases, 1 if settings.quick else settings.repeats, warm=0)
    rows = []
    for jobs in cores:
        line = line_through(numbers, [spread(found[number, jobs]).median for number in numbers])
        rows += [
            Row(NAME, f"{most} photos, {jobs} process(es)", "s", spread(found[most, jobs])),
            Row(
                NAME, f"cores busy, {jobs} process(es)", "cores", ratios(used[most, jobs], found[most, jobs])
            ),
            Row(
                NAME,
                f"processor time of a photo, {jobs} process(es)",
                "s",
                spread([seconds / most for seconds in used[most, jobs]]),
            ),
            Row(
                NAME,
                f"each further photo, {jobs} process(es)",
                "s",
                spread([line.each]),
                note=f"start-up {line.start:.1f} s, off a line through {numbers} by at most {line.deviation:.0%}",
            ),
        ]
    return rows


def write_photos(folder: Path, number: int) -> Path:
    """So many variants of `skimage.data.astronaut()`, the same for the same number."""
    import cv2
    from PIL import Image
    from skimage.data import astronaut

    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for place in range(number):
        path = folder / f"p{place:04}.jpg"
        if place % 8 == 7 and place % 24 == 7:
            path.write_bytes(b"this is not a picture")
            continue
        scale = float(draw.uniform(1.0, 3.4))
        image = np.roll(astronaut(), int(draw.integers(-60, 200)), axis=1)
        if draw.integers(2):
            image = image[:, ::-1]
        image = cv2.resize(
            np.ascontiguousarray(image), None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC
        )
        if place % 8 == 7:
            small = place % 24 == 15
            image = cv2.resize(image, (150, 150)) if small else cv2.GaussianBlur(image, (0, 0), 4 * scale)
        image = np.clip(image * draw.uniform(0.7, 1.15), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(path, quality=int(draw.integers(80, 96)))
    return folder


def _prepare(settings: Settings, photos: Path, number: int, jobs: int) -> tuple[float, float]:
    """Seconds of one command, and of the processors that worked for it."""
    out = settings.scratch / f"prepared-{number}-{jobs}"
    shutil.rmtree(out, ignore_errors=True)  # or the command would go on with what it knows
    command = [sys.executable, "-m", "flows", "prepare", "--photos", str(photos), "--out", str(out)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run(
        [*command, "--jobs", str(jobs), "--no-pictures"],
        check=True,
        capture_output=True,
        cwd=ROOT,
        env=environment(settings),
    )
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (out / "prepared.csv").open(newline="") as stream:
        outcomes = [row["outcome"] for row in csv.DictReader(stream)]
    if len(outcomes) != number or "failed" in outcomes or outcomes.count("usable") < 0.6 * number:
        raise RuntimeError(
            f"prepare came to something else: {len(outcomes)} rows, {outcomes.count('usable')} usable"
        )
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, used
