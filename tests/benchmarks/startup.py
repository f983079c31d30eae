"""Start-up: how long until `faceid --help` has answered, and until a run shows its first progress.

Measured: processes of their own, from just before they start. `faceid --help` and the help pages of commands until they
end; a run of the sample people on a fresh store until the first stage's first progress (or first finished person), in
one process and under Prefect with Ray. The bare interpreter stands beside as what nothing can undercut.

Fair: files are in the system's cache after the warm round, which is thrown away (not with `--quick`); bytecode is
written as usual.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from .measuring import alternate, seconds_of, spread
from .results import Bar, Row
from .runs import ROOT, environment, start_run, write_grid, write_people
from .settings import Settings

NAME = "startup"
_PROGRESS: dict[str, Bar] = {"inline": ("at most", 8.0), "ray": ("at most", 25.0)}
_PAGES = ("run", "plan", "query", "status", "prepare", "doctor", "gc", "erase")
_COMMANDS: dict[str, tuple[tuple[str, ...], Bar | None]] = {
    "bare interpreter": (("-c", "pass"), None),
    "faceid --help": (("-m", "flows", "--help"), ("at most", 0.5)),
} | {f"faceid {page} --help": (("-m", "flows", page, "--help"), ("at most", 0.35)) for page in _PAGES}
_PEOPLE = 2


def run(settings: Settings) -> list[Row]:
    """Commands and runs in turn."""
    commands = {
        name: lambda arguments=arguments: seconds_of(lambda: _python(settings, arguments))
        for name, (arguments, _) in _COMMANDS.items()
    }
    found = alternate(commands, settings.repeats, warm=1)
    rows = [Row(NAME, name, "s", spread(found[name]), bar) for name, (_, bar) in _COMMANDS.items()]
    runs = {executor: lambda executor=executor: first_progress(settings, executor) for executor in _PROGRESS}
    found = alternate(runs, settings.repeats, warm=settings.warm)
    return rows + [
        Row(NAME, f"first progress, {executor}", "s", spread(found[executor]), bar)
        for executor, bar in _PROGRESS.items()
    ]


def first_progress(settings: Settings, executor: str) -> float:
    """Seconds from the process's start to the first sign of progress of a run's first stage."""
    manifest = write_people(settings.scratch / "two-people", _PEOPLE)
    store = settings.scratch / f"startup-{executor}"
    shutil.rmtree(store, ignore_errors=True)
    seen = start_run(
        settings,
        *("--store", str(store), "--identities", str(manifest)),
        *("--preset", "semantic-fidelity", "--set", "personalize.method.steps=1"),
        *("--set", f"generate.grid={write_grid(settings.scratch, 1)}", "--set", "generate.seeds=1"),
        *("--set", "score.named_people=0", "--set", "score.metrics=[detection]"),
        executor=executor,
    )
    return seen.moments["first progress"]


def _python(settings: Settings, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment(settings))
