"""What a run reports while it goes on; the console and Prefect each have their own reporter."""

from __future__ import annotations

import logging
from typing import Protocol

from faceid_core.log_lines import about
from faceid_core.stages.work import Done

log = logging.getLogger("faceid")


class Reporter(Protocol):
    """Hears of a run's events. Subjects are named by identity key or common slug, never by id or picture."""

    def looked_up(self, stage: str, *, hits: int, misses: int) -> None:
        """A stage was looked up in the cache."""
        ...

    def progressed(self, subject: str, done: int, total: int | None) -> None:
        """Called as ProgressCallback is: a subject of the running stage advanced, or known names that it needs."""
        ...

    def settled(self, stage: str, done: Done) -> None:
        """A piece of work has its outcome."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line happened."""
        ...


class LogReporter:
    """Writes to the 'faceid' logger: for runs without a console, and beside one where the log is JSON lines.

    Args:
        inner: Hears of every event as well; None for no other reporter.
    """

    def __init__(self, inner: Reporter | None = None):
        self._inner = inner

    def looked_up(self, stage: str, *, hits: int, misses: int) -> None:
        """See Reporter."""
        log.info("%s: %d cached, %d to compute", stage, hits, misses, extra={"stage": stage})
        if self._inner is not None:
            self._inner.looked_up(stage, hits=hits, misses=misses)

    def progressed(self, subject: str, done: int, total: int | None) -> None:
        """See Reporter; too frequent for a log."""
        if self._inner is not None:
            self._inner.progressed(subject, done, total)

    def settled(self, stage: str, done: Done) -> None:
        """See Reporter."""
        level = logging.INFO if done.status == "done" else logging.WARNING
        call, subject = done.work.call.stage, done.work.subject
        extra = about(call, subject)
        log.log(level, "%s %s: %s %s", call, subject, done.status, done.message or "", extra=extra)
        if self._inner is not None:
            self._inner.settled(stage, done)

    def note(self, text: str) -> None:
        """See Reporter."""
        log.info("%s", text)
        if self._inner is not None:
            self._inner.note(text)
