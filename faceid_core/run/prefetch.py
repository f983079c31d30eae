"""What a run does ahead of its turn, and until when it takes people in."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from faceid_core.config import NightlyConfig
from faceid_core.stages.work import Work

log = logging.getLogger(__name__)


def in_background(look_up: Callable[[], list[Work]], on_misses: Callable[[], object]) -> Future:
    """Run a lookup in a thread, and `on_misses` after it if there is something to compute; the lookup's answer."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="look-ahead")
    answer = thread.submit(look_up)
    thread.submit(_when_missed, answer, on_misses)
    thread.shutdown(wait=False)
    return answer


def _when_missed(answer: Future, on_misses: Callable[[], object]) -> None:
    """What goes wrong here shows again when the run asks for it itself."""
    try:
        if answer.exception() is None and answer.result():
            on_misses()
    except Exception as error:
        log.info("nothing was started ahead: %s", error)


def end_of_admissions(config: NightlyConfig, scheduled_at: dt.datetime) -> dt.datetime | None:
    """`run.finish_by` as a moment: the first such time of day after the scheduled start; None if there is none."""
    finish_by = config.run.finish_by
    if finish_by is None:
        return None
    zone = config.run.zone
    start = scheduled_at.astimezone(zone)
    end = dt.datetime.combine(start.date(), finish_by, tzinfo=zone)
    if end <= start:  # 06:00 for a run that was to begin at 22:00 is tomorrow's
        end += dt.timedelta(days=1)
    # Two times of one zone are compared as they read, and an hour of autumn reads the same twice.
    return end.astimezone(dt.UTC)


def past_end_of_admissions(config: NightlyConfig, scheduled_at: dt.datetime) -> bool:
    """Whether `run.finish_by` has passed by the wall clock."""
    end = end_of_admissions(config, scheduled_at)
    return end is not None and dt.datetime.now(dt.UTC) >= end
