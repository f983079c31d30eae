"""A large store on a folder: how long planning, listing, checking and collecting 100,000 objects takes.

Measured: the ordinary commands in processes of their own, start-up included, on a store whose results are made up
(a few bytes each, under the keys that a run with one named person would plan), so that what is measured is the
store's and the planner's part and not disk bandwidth. `faceid plan` on a fully cached run of 1,000 people, and of
as many people as 100,000 objects stand for; then `faceid verify` and `faceid gc` on the latter, and the bare listing.

Fair: files are in the system's cache. The benchmark breaks if a command finds anything to compute, to repair or to
remove.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .measuring import seconds_of, spread
from .results import Bar, Row
from .runs import ROOT, environment
from .settings import Settings

NAME = "large-store"
PEOPLE, OBJECTS_EACH = 1_000, 33
OBJECTS = 100_000


def run(settings: Settings) -> list[Row]:
    """Make the two stores, then run the commands on them."""
    small = settings.people or (10 if settings.quick else PEOPLE)
    large = 3 * small if settings.quick or settings.people else -(-OBJECTS // OBJECTS_EACH)
    rows = []
    for people, bar in ((small, ("at most", 5.0)), (large, ("at most", 30.0))):
        config, objects = made_up(settings, people)
        case = f"{people} people, {objects} objects, folder"
        rows += _timed(
            settings, f"{case}: faceid plan", ("plan", "--config", str(config)), "everything is cached", bar
        )
    store = ("--store", str(config.parent / "store"))
    rows += _timed(settings, f"{case}: faceid verify", ("verify", *store), "is what was written", None)
    rows += _timed(settings, f"{case}: faceid gc", ("gc", *store), "0 objects", None)
    listing = [_list_all(config.parent / "store", objects) for _ in range(settings.repeats)]
    return [*rows, Row(NAME, f"{case}: listing all scopes", "s", spread(listing), ("at most", 30.0))]


def made_up(settings: Settings, people: int) -> tuple[Path, int]:
    """A store as a run of so many people leaves it, its configuration's file, and how many objects it holds."""
    from faceid_core.store import open_store
    from tests.helpers.pretend_night import pretend_config, pretend_night, write_manifest

    root = settings.scratch / f"large-{people}"
    manifest = write_manifest(root / "people", people)
    config = root / "night.yaml"
    config.write_text(
        f"store: {root / 'store'}\nidentities: {manifest}\nscore: {{named_people: 1}}\n", encoding="utf-8"
    )
    os.environ["FACEID_IDENTITY_SECRET"] = environment(settings)["FACEID_IDENTITY_SECRET"]
    sync, os.fsync = os.fsync, lambda _: None  # the store need not survive a power cut
    try:
        pretend_night(pretend_config(str(root / "store"), manifest))
    finally:
        os.fsync = sync
    return config, sum(1 for _ in open_store(str(root / "store")).list(""))


def _timed(
    settings: Settings, case: str, arguments: Sequence[str], wanted: str, bar: Bar | None
) -> list[Row]:
    told: list[str] = []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = [
        seconds_of(lambda: told.append(_faceid(settings, arguments, wanted))) for _ in range(settings.repeats)
    ]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / settings.repeats
    return [Row(NAME, case, "s", spread(seconds), bar, note=f"processor time {used:.1f} s")]


def _faceid(settings: Settings, arguments: Sequence[str], wanted: str) -> str:
    command = [sys.executable, "-m", "flows", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(settings))
    if ended.returncode or wanted not in ended.stdout:
        raise RuntimeError(
            f"faceid {arguments[0]} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}"
        )
    return ended.stdout


def _list_all(store: Path, objects: int) -> float:
    from faceid_core.store import open_store
    from faceid_core.upkeep.scopes import all_scopes

    began = time.monotonic()
    found = sum(len(scope.manifests) + len(scope.blobs) for scope in all_scopes(open_store(str(store))))
    assert found >= objects - 10, (found, objects)
    return time.monotonic() - began
