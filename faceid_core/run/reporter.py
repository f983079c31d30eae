"""What a run reports while it goes on; the console and Prefect each have their own reporter."""

from __future__ import annotations

import logging
from typing import Protocol

from faceid_core.stages.work import Done

log = logging.getLogger("faceid")


class Reporter(Protocol):
    """Hears of a run's events. Subjects are named by identity key or common slug, never by id or picture."""

    def looked_up(self, stage: str, *, hits: int, misses: int) -> None:
        """A stage was looked up in the cache."""
        ...

    def progressed(self, subject: str, done: int, total: int | None) -> None:
        """Called as ProgressCallback is: a subject advanced within the running stage."""
        ...

    def settled(self, stage: str, done: Done) -> None:
        """A piece of work has its outcome."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line happened."""
        ...


class LogReporter:
    """Writes to the 'faceid' logger: for tests and for runs without a console."""

    def looked_up(self, stage: str, *, hits: int, misses: int) -> None:
        """See Reporter."""
        log.info("%s: %d cached, %d to compute", stage, hits, misses)

    def progressed(self, subject: str, done: int, total: int | None) -> None:
        """See Reporter; too frequent for a log."""

    def settled(self, stage: str, done: Done) -> None:
        """See Reporter."""
        level = logging.INFO if done.status == "done" else logging.WARNING
        log.log(
            level, "%s %s: %s %s", done.work.call.stage, done.work.subject, done.status, done.message or ""
        )

    def note(self, text: str) -> None:
        """See Reporter."""
        log.info("%s", text)
