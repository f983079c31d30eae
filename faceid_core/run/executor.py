"""Where stages run: the protocol of an executor, and the one that runs them in this process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from threading import RLock, Thread
from threading import enumerate as threads
from typing import Protocol

from faceid_core.outcomes import MODEL_AT_FAULT, UNLEARNABLE
from faceid_core.progress import ProgressCallback
from faceid_core.run.tracing import traced
from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.planning import spec_of
from faceid_core.stages.work import Done, Work
from faceid_core.stages.worker import Worker

log = logging.getLogger(__name__)

MOST_AT_ONCE = 32  # works in one batch where the worker decides how many share a pass

# Takes an outcome; returns the works that it makes possible, which an executor that overlaps stages runs as well.
OnDone = Callable[[Done], Sequence[Work] | None]
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Usage:
    """How a run's workers were used.

    Attributes:
        idle: for each present worker, the share of its time since it was ready in which it had no work, 0..1.
        replaced: workers that died or hung and were replaced.
    """

    idle: tuple[float, ...] = ()
    replaced: int = 0


class WorkerClock:
    """Measures which share of the time since it was made one worker works."""

    def __init__(self) -> None:
        self._ready, self._busy = time.monotonic(), 0.0

    @contextmanager
    def working(self) -> Generator[None]:
        """Count the time of a block as work."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._busy += time.monotonic() - began

    @property
    def idle(self) -> float:
        """The share of the time without work, 0..1."""
        lifetime = time.monotonic() - self._ready
        return max(0.0, 1 - self._busy / lifetime) if lifetime else 0.0


class Executor(Protocol):
    """Runs works of one stage on workers; its maker closes it."""

    @property
    def overlaps(self) -> bool:
        """Whether works of a later stage can run beside those of this one: `beside`, and what `on_done` returns."""
        ...

    def execute(
        self,
        works: Sequence[Work],
        on_progress: ProgressCallback,
        on_done: OnDone,
        stop: Stop,
        *,
        beside: Sequence[Work] = (),
    ) -> None:
        """Run all works.

        Args:
            works: of one stage.
            beside: of a later one, for workers that no work of any call waits for; only where the executor overlaps. One
                that is stopped, or that another run computes, is not reached.
            on_progress: called with the subject's name as its work advances.
            on_done: called once for each work.
            stop: asked before each batch; once it returns True, works that have not begun are not reached.
        """
        ...

    def usage(self) -> Usage:
        """How the workers were used so far."""
        ...

    def close(self) -> None:
        """Release every resource; safe to call twice."""
        ...


class InlineExecutor:
    """Runs everything in this process, one batch after another; what a stage raises is logged with its traceback."""

    overlaps = False

    def __init__(self, settings: WorkerSettings, run_id: str, *, attempts: int):
        self._settings, self._run_id, self._attempts = settings, run_id, attempts
        self._worker: Worker | None = None
        self._clock = WorkerClock()
        # The models change state while they compute, so the chunks of a flow take turns.
        self._lock = RLock()

    def execute(
        self,
        works: Sequence[Work],
        on_progress: ProgressCallback,
        on_done: OnDone,
        stop: Stop,
        *,
        beside: Sequence[Work] = (),
    ) -> None:
        """See Executor. A failed work is tried again alone, so that it cannot fail the rest of its batch."""
        assert not beside, "one process has no worker to spare"
        with self._lock, self._clock.working():
            if self._worker is None:
                self._worker = Worker(self._settings, self._run_id)
            left = list(works)
            while left:
                elsewhere: list[Work] = []
                for batch in batches(left, self._settings.slots):
                    if stop():
                        for work in batch:
                            on_done(not_reached(work))
                    else:
                        elsewhere += self._run(self._worker, batch, on_progress, on_done)
                left = elsewhere

    def _run(
        self, worker: Worker, batch: list[Work], on_progress: ProgressCallback, on_done: OnDone
    ) -> list[Work]:
        """Run one batch; return the works that another run computes, to be waited for when nothing else is left."""
        elsewhere = []
        for done in traced(worker.execute, batch, on_progress, self._run_id):
            attempt = 1
            while may_try_again(done) and attempt < self._attempts:
                attempt += 1
                patient = replace(done.work, patient=True)
                again = traced(worker.execute, [patient], on_progress, self._run_id)
                done = replace(next(again), attempts=attempt)
            if done.status == "elsewhere":
                elsewhere.append(replace(done.work, patient=True))
            else:
                on_done(done)
        return elsewhere

    def usage(self) -> Usage:
        """See Executor; this process is the one worker."""
        return Usage((self._clock.idle,))

    def close(self) -> None:
        """Drop the models."""
        self._worker = None


_CLOSING = "closing"  # name of the threads that `close_within` starts


def close_within(seconds: float, close: Callable[[], None]) -> None:
    """Close workers or services in a thread of its own, and wait for it at most so many seconds.

    A slower `close` goes on in its thread; `left_behind` tells.
    """

    def closing() -> None:
        try:
            close()
        except Exception as error:
            log.warning("what a run had started could not be closed: %s: %s", type(error).__name__, error)

    thread = Thread(target=closing, name=_CLOSING, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        log.warning("what a run had started is not closed after %.0f s; it is left behind", seconds)


def left_behind() -> bool:
    """Whether a `close` is still running that `close_within` stopped waiting for; the process should not wait either."""
    return any(thread.name == _CLOSING for thread in threads())


def may_try_again(done: Done) -> bool:
    """Whether another attempt can succeed: not if the person cannot be learned with this method, or a model is broken."""
    return done.status == "failed" and done.reason not in UNLEARNABLE | MODEL_AT_FAULT


def not_reached(work: Work) -> Done:
    """The outcome of a work that did not begin, or whose answer was not waited for."""
    message = "the run was stopped, or finish_by passed, before it was done; run again"
    return Done(work, "not_reached", reason="stopped", message=message, attempts=0)


def batches(works: Sequence[Work], slots: int) -> Iterator[list[Work]]:
    """Cut works into batches that share a pass: of one stage each, at most `StageSpec.batch` (or the slots) long."""
    for name, group in groupby(works, key=lambda work: work.call.stage):
        same = list(group)
        size = spec_of(name).batch or slots or MOST_AT_ONCE
        for start in range(0, len(same), size):
            yield same[start : start + size]
