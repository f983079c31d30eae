"""Where stages run: the protocol of an executor, and the one that runs them in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.work import Done, Work

Tick = Callable[[str, int, int], None]
OnDone = Callable[[Done], None]


class Executor(Protocol):
    """Runs works of one stage; opened at the first miss and closed once by whoever made it."""

    def execute(self, works: Sequence[Work], tick: Tick, on_done: OnDone) -> None:
        """Run all works; call `on_done` once for each, from this thread."""
        ...

    def close(self) -> None:
        """Release every resource; safe to call twice."""
        ...


class InlineExecutor:
    """Runs everything in this process, one batch after another; a failure shows its whole traceback."""

    def __init__(self, settings: WorkerSettings, run_id: str, *, attempts: int):
        self._settings, self._run_id, self._attempts = settings, run_id, attempts
        self._worker = None

    def execute(self, works: Sequence[Work], tick: Tick, on_done: OnDone) -> None:
        """See Executor. Failed works get further attempts alone, so that one cannot spoil another's."""
        from faceid_core.stages.worker import Worker

        if self._worker is None:
            self._worker = Worker(self._settings, self._run_id)
        for batch in batches(works, self._settings.slots):
            for done in self._worker.execute(batch, tick):
                attempt = 1
                while done.status == "failed" and attempt < self._attempts:
                    attempt += 1
                    done = with_attempts(next(iter(self._worker.execute([done.work], tick))), attempt)
                on_done(done)

    def close(self) -> None:
        """Drop the models."""
        self._worker = None


def with_attempts(done: Done, attempts: int) -> Done:
    """The same outcome, reached at this attempt."""
    from dataclasses import replace

    return replace(done, attempts=attempts)


def batches(works: Sequence[Work], slots: int) -> Iterator[list[Work]]:
    """Cut works into the pieces that share a pass: of one stage each, at most `Stage.batch` (or the slots) long."""
    from itertools import groupby

    from faceid_core.stages import stage_named

    for name, group in groupby(works, key=lambda work: work.call.stage):
        same = list(group)
        size = stage_named(name).batch or slots
        for start in range(0, len(same), size):
            yield same[start : start + size]
