"""A run that waits while another one uses its store: it says for whom, and is refused at its deadline."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from faceid_core.config import NightlyConfig
from faceid_core.run.prefetch import past_end_of_admissions
from faceid_core.store import StoreBusy, Wait

SAY_AGAIN_SECONDS = 600.0


class PatientWait:
    """What a run does at each look at a store that is busy; made for `RunLease.acquire`.

    Args:
        config: Of the run that waits.
        store: The store's address.
        scheduled: When the run was to start, for `run.finish_by`.
        say: Told for whom the run waits: at once, when that changes, and every ten minutes.
    """

    def __init__(self, config: NightlyConfig, store: str, scheduled: dt.datetime, say: Callable[[str], None]):
        self._config, self._store, self._scheduled, self._say = config, store, scheduled, say
        self._told: tuple[str, bool] | None = None
        self._told_at = 0.0

    def __call__(self, wait: Wait) -> None:
        """Say for whom the run waits.

        Raises:
            StoreBusy: it has waited long enough.
        """
        # A holder that may be dead is watched to the end: its lease's ttl is short.
        limit = "" if wait.in_doubt else self._limit_reached(wait.seconds)
        if limit:
            raise StoreBusy(
                f"run {wait.run_id} on {wait.host} is still using {self._store}, and this run waits no longer: {limit}. "
                "Nothing was changed; `faceid status` says how far that run is"
            )
        what = wait.run_id, wait.in_doubt
        if what == self._told and wait.seconds - self._told_at < SAY_AGAIN_SECONDS:
            return
        self._told, self._told_at = what, wait.seconds
        self._say(self._text(wait))

    def _limit_reached(self, seconds: float) -> str:
        minutes = self._config.run.busy_wait_minutes
        if minutes is not None and seconds >= minutes * 60:
            return f"run.busy_wait_minutes is {minutes:g}"
        if past_end_of_admissions(self._config, self._scheduled):
            return f"run.finish_by, {self._config.run.finish_by:%H:%M}, has passed"
        return ""

    def _text(self, wait: Wait) -> str:
        who = f"run {wait.run_id} on {wait.host}"
        if wait.in_doubt:
            return f"{who} holds the store's lease and may be dead: watching it for up to {wait.ttl:.0f} s"
        since = f" for {wait.seconds / 60:.0f} min" if wait.seconds >= 60 else ""
        run = self._config.run
        limits = [] if run.busy_wait_minutes is None else [f"at most {run.busy_wait_minutes:g} min"]
        if run.finish_by is not None:
            limits.append(f"until {run.finish_by:%H:%M}")
        until = f" ({', '.join(limits)})" if limits else ""
        return f"waiting{since} for {who}, which is using the same store{until}"
