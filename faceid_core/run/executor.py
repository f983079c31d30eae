"""Where stages run: the protocol of an executor, and the one that runs them in this process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from threading import RLock, Thread
from threading import enumerate as threads
from typing import Protocol

from faceid_core.outcomes import MODEL_AT_FAULT, UNLEARNABLE
from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.work import Done, Work

log = logging.getLogger(__name__)

MOST_AT_ONCE = 32  # works handed out together where the worker decides how many share a pass

Tick = Callable[[str, int, int], None]
# Takes an outcome; gives the works that have become possible by it, for an executor that runs them meanwhile.
OnDone = Callable[[Done], Sequence[Work] | None]
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Usage:
    """What became of a run's workers.

    Attributes:
        idle: for each worker that there is, the share of its time since it was ready in which it had no work.
        replaced: workers that died or hung and were replaced.
    """

    idle: tuple[float, ...] = ()
    replaced: int = 0


class Clock:
    """How long one worker has been there, and how long it worked."""

    def __init__(self):
        self._ready, self._busy = time.monotonic(), 0.0

    @contextmanager
    def working(self):
        """Count the time of a block as work."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._busy += time.monotonic() - began

    @property
    def idle(self) -> float:
        """The share of the time without work, 0..1."""
        there = time.monotonic() - self._ready
        return max(0.0, 1 - self._busy / there) if there else 0.0


class Executor(Protocol):
    """Runs works of one stage; opened at the first miss and closed once by whoever made it.

    Attributes:
        overlaps: whether works of the next stage can run beside those of this one; they do if `on_done` gives any.
    """

    overlaps: bool

    def execute(self, works: Sequence[Work], tick: Tick, on_done: OnDone, stop: Stop) -> None:
        """Run all works; call `on_done` once for each. Where `stop` says so, what has not begun is not reached."""
        ...

    def usage(self) -> Usage:
        """What became of the workers so far."""
        ...

    def close(self) -> None:
        """Release every resource; safe to call twice."""
        ...


class InlineExecutor:
    """Runs everything in this process, one batch after another; what a stage raises is logged with its traceback."""

    overlaps = False

    def __init__(self, settings: WorkerSettings, run_id: str, *, attempts: int):
        self._settings, self._run_id, self._attempts = settings, run_id, attempts
        self._worker = None
        self._clock = Clock()
        # The models are one set and change state while they compute: chunks of a flow take turns.
        self._turn = RLock()

    def execute(self, works: Sequence[Work], tick: Tick, on_done: OnDone, stop: Stop) -> None:
        """See Executor. Failed works get further attempts alone, so that one cannot spoil another's."""
        from faceid_core.stages.worker import Worker

        with self._turn, self._clock.working():
            if self._worker is None:
                self._worker = Worker(self._settings, self._run_id)
            left = list(works)
            while left:
                elsewhere: list[Work] = []
                for batch in batches(left, self._settings.slots):
                    self._run(batch, tick, on_done, stop, elsewhere)
                left = elsewhere  # another run was at these; by now there is nothing else to do

    def _run(self, batch: list[Work], tick: Tick, on_done: OnDone, stop: Stop, elsewhere: list[Work]) -> None:
        if stop():
            for work in batch:
                on_done(not_reached(work))
            return
        for done in self._worker.execute(batch, tick):
            attempt = 1
            while may_try_again(done) and attempt < self._attempts:
                attempt += 1
                patient = replace(done.work, patient=True)
                done = replace(next(iter(self._worker.execute([patient], tick))), attempts=attempt)
            if done.status == "elsewhere":
                elsewhere.append(replace(done.work, patient=True))
            else:
                on_done(done)

    def usage(self) -> Usage:
        """See Executor; this process is the one worker."""
        return Usage((self._clock.idle,))

    def close(self) -> None:
        """Drop the models."""
        self._worker = None


_CLOSING = "closing"  # the name of threads that close what may hang


def close_within(seconds: float, close: Callable[[], None]) -> None:
    """Call what closes workers or services, in a thread of its own, and wait so many seconds for it.

    What takes longer goes on, see `left_behind`.
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
    """Whether something is being closed still that was not waited for; a process that ends should not wait either."""
    return any(thread.name == _CLOSING for thread in threads())


def may_try_again(done: Done) -> bool:
    """Whether a further attempt can end otherwise: not if the person cannot be learned so, or a model is at fault."""
    return done.status == "failed" and done.reason not in UNLEARNABLE | MODEL_AT_FAULT


def not_reached(work: Work) -> Done:
    """The outcome of a work that was not begun, or whose answer was not waited for."""
    message = "the run was stopped, or finish_by passed, before it was done; run again"
    return Done(work, "not_reached", reason="stopped", message=message, attempts=0)


def batches(works: Sequence[Work], slots: int) -> Iterator[list[Work]]:
    """Cut works into the pieces that share a pass: of one stage each, at most `Stage.batch` (or the slots) long."""
    from faceid_core.stages import stage_named

    for name, group in groupby(works, key=lambda work: work.call.stage):
        same = list(group)
        size = stage_named(name).batch or slots or MOST_AT_ONCE
        for start in range(0, len(same), size):
            yield same[start : start + size]
