"""The progress bar of a run in the Prefect UI."""

from __future__ import annotations

import contextvars
import threading
from collections import Counter
from typing import cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from faceid_core.run.state import Run
from faceid_core.stages import STAGES
from faceid_core.stages.name_prior import SUBJECT as KNOWN_NAMES
from faceid_core.stages.work import Done

POST_SECONDS = 5.0


class ProgressReporter:
    """Keeps a run's progress artifact and passes every event on to the run's own reporter; a context manager.

    Every stage counts the same; within a stage, progress is the share of its misses that have their outcome. A thread
    of its own writes the artifact, so that a slow Prefect server does not delay the run; a failure is logged once.

    Args:
        run: Its reporter is this one until the `with` block ends.
    """

    def __init__(self, run: Run):
        self._run, self._inner = run, run.reporter
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._total: dict[str, int] = {}
        self._settled: Counter = Counter()
        self._under_way: dict[str, float] = {}
        self._stage = STAGES[0]
        self._log = get_run_logger()
        self._artifact: UUID | None = None
        self._posted = (0.0, "")

    def __enter__(self) -> ProgressReporter:
        self._run.reporter = self
        try:
            # In a thread without an event loop it answers at once, not with a coroutine.
            self._artifact = cast(
                UUID,
                create_progress_artifact(0.0, key="progress", description=f"Run {self._run.run_id}"),
            )
        except Exception as error:  # the run goes on without the artifact
            self._log.warning("run %s: no progress in Prefect: %s", self._run.run_id, error)
            return self
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._keep_posting,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._run.reporter = self._inner
        self._ended.set()
        self._post()

    def looked_up(self, stage: str, *, hits: int, misses: int) -> None:
        """See Reporter."""
        with self._lock:
            self._total[stage] = (
                self._settled[stage] + misses
            )  # scores may be settled before their stage is looked up
            if misses:
                self._stage = stage
                self._under_way.clear()
        self._inner.looked_up(stage, hits=hits, misses=misses)

    def progressed(self, subject: str, done: int, total: int | None) -> None:
        """See Reporter."""
        with self._lock:
            if subject != KNOWN_NAMES:  # identities wait for these, and none has advanced
                self._under_way[subject] = done / total if total else 0.0
        self._inner.progressed(subject, done, total)

    def settled(self, stage: str, done: Done) -> None:
        """See Reporter."""
        with self._lock:
            self._settled[stage] += 1
            self._under_way.pop(done.work.subject, None)
        self._inner.settled(stage, done)

    def note(self, text: str) -> None:
        """See Reporter."""
        self._inner.note(text)

    def progress(self) -> tuple[float, str]:
        """Per cent of the run, and its present stage in words."""
        with self._lock:
            per_cent = 100 * sum(self._share(stage) for stage in STAGES) / len(STAGES)
            settled, total = self._settled[self._stage], self._total.get(self._stage, 0)
            number = STAGES.index(self._stage) + 1
        where = (
            f"{self._stage}, stage {number} of {len(STAGES)}: {settled} of {total} results have their outcome"
        )
        return round(per_cent, 1), f"Run {self._run.run_id}: {where}"

    def _share(self, stage: str) -> float:
        total = self._total.get(stage)
        if total is None:  # the first stage may have been looked up before this reporter was set
            later = STAGES[STAGES.index(stage) + 1 :]
            return 1.0 if any(each in self._total for each in later) else 0.0
        if not total:
            return 1.0
        under_way = sum(self._under_way.values()) if stage == self._stage else 0.0
        return min(1.0, (self._settled[stage] + under_way) / total)

    def _keep_posting(self) -> None:
        while not self._ended.wait(POST_SECONDS):
            if not self._post():
                return

    def _post(self) -> bool:
        """Write the progress if it changed; False if Prefect does not take it."""
        now = self.progress()
        if self._artifact is None or now == self._posted:
            return True
        try:
            update_progress_artifact(self._artifact, now[0], description=now[1])
            self._posted = now
        except Exception as error:  # the run goes on without the artifact
            self._log.warning("run %s: its progress in Prefect stands still: %s", self._run.run_id, error)
            self._artifact = None
            return False
        return True
