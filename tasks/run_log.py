"""Progress of a run without a terminal: lines in the log of its flow run."""

from __future__ import annotations

import logging
import threading
import time

from faceid_core.log_lines import about
from faceid_core.stages.work import Done

LINE_SECONDS = 15.0


class RunLogReporter:
    """Writes each lookup, each work that is not done, and now and then the progress to the log of a flow run.

    Args:
        logger: From `get_run_logger()` in the flow; it knows its run in threads of the pool as well.
    """

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter):
        self._log, self._lock = logger, threading.Lock()
        self._stage, self._settled, self._total, self._last_line = "", 0, 0, time.monotonic()

    def looked_up(self, stage: str, *, hits: int, misses: int) -> None:
        """See Reporter."""
        with self._lock:
            self._stage, self._settled, self._total = stage, 0, misses
        self._log.info("%s: %d cached, %d to compute", stage, hits, misses, extra={"stage": stage})

    def progressed(self, subject: str, done: int, total: int | None) -> None:
        """See Reporter; a line every `LINE_SECONDS`, because Prefect keeps all of them."""
        with self._lock:
            if time.monotonic() - self._last_line < LINE_SECONDS:
                return
            self._last_line = time.monotonic()
            counts = self._stage, self._settled, self._total
        self._log.info("%s: %d of %d finished; %s %d/%d", *counts, subject, done, total, extra=about(counts[0], subject))

    def settled(self, stage: str, done: Done) -> None:
        """See Reporter; works that are done are counted only."""
        with self._lock:
            self._settled += stage == self._stage  # scores may be computed before their stage
        if done.status != "done":
            call, subject = done.work.call.stage, done.work.subject
            extra = about(call, subject)
            self._log.warning("%s %s: %s: %s", call, subject, done.status, done.message or "", extra=extra)

    def note(self, text: str) -> None:
        """See Reporter."""
        self._log.info("%s", text)
