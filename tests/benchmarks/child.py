"""One `faceid` command in a process of its own, with a clock at the turns of a run.

`python -m tests.benchmarks.child REPORT faceid-arguments...` runs the command exactly as the entry point does, with a
stopwatch around a few functions, and writes what it saw into REPORT as JSON. It imports nothing that the command would
not import itself, so that what the command loads can be told from its report. Only `faceid run` has the stopwatch.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

BEGAN = "FACEID_BENCHMARK_BEGAN"  # time.monotonic() of the parent just before it started this process
MODEL_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate")


class Clock:
    """Moments (the first time that something happened) and spans (how long something lasted, calls joined)."""

    def __init__(self, began: float):
        self.began = began
        self.moments: dict[str, float] = {}
        self.spans: dict[str, list[tuple[float, float]]] = {}
        self._lock = threading.Lock()

    def now(self) -> float:
        """Seconds since the parent started this process."""
        return time.monotonic() - self.began

    def moment(self, name: str) -> None:
        """Note the first time."""
        with self._lock:
            self.moments.setdefault(name, self.now())

    def span(self, name: str, first: float) -> None:
        """Note that something lasted from `first` until now."""
        with self._lock:
            self.spans.setdefault(name, []).append((first, self.now()))

    def lasted(self, name: str) -> float:
        """Seconds in which at least one call of that name was under way."""
        return joined_seconds(self.spans.get(name, []))

    def around(self, owner: object, attribute: str, name: str) -> None:
        """Time every call of a function; of a generator, what lies between asking it and its answer."""
        original = getattr(owner, attribute)

        @functools.wraps(original)
        def timed(*args, **kwargs):
            self.moment(name)
            first = self.now()
            try:
                found = original(*args, **kwargs)
            finally:
                self.span(name, first)
            return self._each(found, name) if hasattr(found, "__next__") else found

        setattr(owner, attribute, timed)

    def at(self, owner: object, attribute: str, name: str) -> None:
        """Note the first call of a method."""
        original: Callable = getattr(owner, attribute)

        @functools.wraps(original)
        def noted(*args, **kwargs):
            self.moment(name)
            return original(*args, **kwargs)

        setattr(owner, attribute, noted)

    def _each(self, generator, name: str):
        while True:
            first = self.now()
            try:
                found = next(generator)
            except StopIteration:
                return
            finally:
                self.span(name, first)
            yield found


def joined_seconds(spans: list[tuple[float, float]]) -> float:
    """Length of the union of spans (first, last): what runs at once counts once."""
    total, reached = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, reached))
        reached = max(reached, last)
    return total


def attach(clock: Clock) -> None:
    """Put the stopwatch around a run's turns."""
    from faceid_core.publish import publish
    from faceid_core.run import execute as execution
    from faceid_core.run import executor, lookup
    from faceid_core.run import open as opening
    from flows.console import ConsoleReporter

    clock.around(opening, "open_run", "opening")
    clock.around(lookup, "lookup_stage", "lookup")
    clock.around(execution, "execute_stage", "execute")
    clock.around(publish, "collect_scores", "publish: scores")
    clock.around(publish, "write_pages", "publish: pages")
    clock.around(publish.Tables, "publish", "publish: tables")
    from faceid_core import nightly as drive  # takes the functions by name, so after they are timed

    clock.at(drive, "worker_settings", "executor")
    clock.at(ConsoleReporter, "progressed", "first progress")
    clock.at(ConsoleReporter, "settled", "first progress")
    original = executor.InlineExecutor.execute

    @functools.wraps(original)
    def execute(*args, **kwargs):
        first = clock.now()
        from faceid_core.stages.worker import Worker

        if not hasattr(Worker.execute, "__wrapped__"):
            import torch  # noqa: F401 - the worker imports it next; here it counts as start-up

            clock.span("imports", first)
            clock.around(Worker, "execute", "worker")
        return original(*args, **kwargs)

    executor.InlineExecutor.execute = execute


def peak_bytes() -> int | None:
    """The most memory that this process ever had resident; None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def store_requests() -> int:
    """How many requests this process asked of its stores through our own client; 0 if it opened none."""
    counted = sys.modules.get("faceid_core.store.requests")
    return sum(counted.REQUESTS.snapshot().values()) if counted else 0


def main() -> None:
    """Run the command; the report is written however it ends."""
    report, *arguments = sys.argv[1:]
    clock = Clock(float(os.environ[BEGAN]))
    if arguments[0] == "run":
        attach(clock)
    from flows import cli

    sys.argv = ["faceid", *arguments]
    status = 1
    try:
        cli.main()
    except SystemExit as stop:
        status = int(stop.code or 0)
        raise
    finally:
        seen = {
            "status": status,
            "seconds": clock.now(),
            "processor_seconds": time.process_time(),
            "requests": store_requests(),
            "moments": clock.moments,
            "spans": {name: [clock.lasted(name), len(spans)] for name, spans in clock.spans.items()},
            "peak_bytes": peak_bytes(),
            "model_libraries": [name for name in MODEL_LIBRARIES if name in sys.modules],
        }
        Path(report).write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    main()
