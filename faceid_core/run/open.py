"""Opening a run: manifest, plan, store, lease and admission; everything that can refuse a run does so here."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from faceid_core.config import NightlyConfig
from faceid_core.errors import AlreadyRun, ConfigurationError, as_configuration
from faceid_core.identity import Identity
from faceid_core.run.admission import admit_all, ceiling_names
from faceid_core.run.dated import complete_run_of_date, nothing_to_do, require_past_or_present
from faceid_core.run.identities import read_requested
from faceid_core.run.photo_source import PhotoSource
from faceid_core.run.preflight import require_fit
from faceid_core.run.records import new_run_id, write_request, write_status
from faceid_core.run.reporter import Reporter
from faceid_core.run.state import LEARNING_STAGES, Run, past_finish_by
from faceid_core.run.store_access import open_or_create
from faceid_core.stages.plan import Plan
from faceid_core.store import RunLease, StoreBusy, Wait

REPORT_AGAIN_SECONDS = 600.0


@as_configuration()
def open_run(
    config: NightlyConfig,
    reporter: Reporter,
    *,
    run_suffix: str | None = None,
    scheduled: dt.datetime | None = None,
    dry_run: bool = False,
    identities_of: Callable[[NightlyConfig], list[Identity]] | None = None,
    evaluation_only: bool = False,
    report_wait: Callable[[str], None] | None = None,
) -> Run:
    """Take the store's lease, admit the identities and make the plan; no model is loaded and nothing is computed.

    The run holds the lease until `drive` ends it, or until `Run.release`.

    Args:
        config: The parsed configuration.
        reporter: Listens to the run.
        run_suffix: Eight characters that stay the same over retries of one flow run.
        scheduled: When the run was to start; its date in the schedule's timezone is the run's date unless `run.date`
            names another.
        dry_run: Write nothing: take no lease, leave no record of the run, create neither store nor secret.
        identities_of: Reads the identities that take part, called again after a wait for the lease; None reads those of
            the configuration.
        evaluation_only: Personalize no identity: draw and score those whose tokens the store holds.
        report_wait: Called with a line about the wait for another run; None uses the reporter's notes.

    Raises:
        AlreadyRun: `run.date` has its complete run; nothing was changed.
        ConfigurationError: the run cannot start; nothing was changed.
        SecretMismatch: the store was made with another secret.
        StoreBusy: another run holds the store, and `run.on_busy` says not to wait, or not for so long; nothing was
            changed.
    """
    asked = dt.datetime.now(dt.UTC)
    today = asked.astimezone(config.run.zone).date()
    require_past_or_present(config, today)
    run_date = config.run.date or (scheduled or asked).astimezone(config.run.zone).date()
    run_id = new_run_id(config, run_date, run_suffix)
    if evaluation_only:
        require_no_training(config)
    plan = Plan.from_config(config)
    # Problems of the manifest, and texts that the model cannot read, are reported now, not after a wait for the lease.
    read = read_requested if identities_of is None else lambda config: (identities_of(config), "")
    requested, left_out = read(config)
    require_fit(plan, requested, ceiling_names(config))
    if left_out:
        reporter.note(left_out)
    store, secret = open_or_create(config, read_only=dry_run, report=reporter.note)
    wait = LeaseWait(config, store.url, scheduled or asked, report_wait or reporter.note)
    lease = None if dry_run else RunLease.acquire(store, run_id, on_busy=config.run.on_busy, waiting=wait)
    try:
        # Read again after the wait: a consent withdrawn or a photo exchanged meanwhile counts.
        identities = requested if dry_run else read(config)[0]
        if identities != requested:
            require_fit(plan, identities, ceiling_names(config))
        photos = PhotoSource(config.s3.settings(), config.faces.max_photo_bytes)
        # A run for an earlier date uses the photos now, and one that waited those of later, so the consents of now count.
        today = dt.datetime.now(config.run.zone).date()
        subjects, outcome_reports, by_key = admit_all(
            identities, store, secret, photos, config, max(today, run_date)
        )
        run = Run(
            run_id=run_id,
            run_date=run_date,
            scheduled_at=scheduled or asked,
            started_at=dt.datetime.now(dt.UTC),
            config=config,
            plan=plan,
            store=store,
            secret=secret,
            subjects=subjects,
            outcome_reports=outcome_reports,
            identities=by_key,
            photos=photos,
            reporter=reporter,
            lease=lease,
            evaluation_only=evaluation_only,
            left_out=left_out,
        )
        if not dry_run and (complete := complete_run_of_date(run)):
            raise AlreadyRun(nothing_to_do(run, complete))
        if not dry_run:
            write_request(run)
            write_status(run, "running")
    except BaseException:
        if lease is not None:
            lease.release()
        raise
    return run


def require_no_training(config: NightlyConfig) -> None:
    """Refuse a configuration that would personalize identities again.

    Raises:
        ConfigurationError: `run.force` would begin before the pictures.
    """
    if config.run.force and (config.run.from_stage is None or config.run.from_stage in LEARNING_STAGES):
        raise ConfigurationError(
            "run.force would personalize people again, which an evaluation never does; "
            "set run.from_stage to generate or score, or leave run.force off"
        )


class LeaseWait:
    """Called by `RunLease.acquire` each time it finds the store busy: reports the wait, and ends it at the run's limit.

    Args:
        config: Of the run that waits.
        store: The store's address.
        scheduled: When the run was to start, for `run.finish_by`.
        report: Called with a line that names the run that holds the store: at once, when that changes, and every ten
            minutes.
    """

    def __init__(
        self, config: NightlyConfig, store: str, scheduled: dt.datetime, report: Callable[[str], None]
    ):
        self._config, self._store, self._scheduled, self._report = config, store, scheduled, report
        self._reported: tuple[str, bool] | None = None
        self._reported_at = 0.0

    def __call__(self, wait: Wait) -> None:
        """Report the run that holds the store.

        Raises:
            StoreBusy: it has waited long enough.
        """
        # A holder that may be dead is watched to the end: the ttl of its lease is short.
        limit = "" if wait.in_doubt else self._limit_reached(wait.seconds)
        if limit:
            raise StoreBusy(
                f"run {wait.run_id} on {wait.host} is still using {self._store}, and this run waits no longer: {limit}. "
                "Nothing was changed; `faceid status` says how far that run is"
            )
        what = wait.run_id, wait.in_doubt
        if what == self._reported and wait.seconds - self._reported_at < REPORT_AGAIN_SECONDS:
            return
        self._reported, self._reported_at = what, wait.seconds
        self._report(self._text(wait))

    def _limit_reached(self, seconds: float) -> str:
        minutes = self._config.run.busy_wait_minutes
        if minutes is not None and seconds >= minutes * 60:
            return f"run.busy_wait_minutes is {minutes:g}"
        if past_finish_by(self._config, self._scheduled):
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
