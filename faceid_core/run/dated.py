"""A run for a date of its own (`run.date`): a missed run is made up for once, however often it is asked for."""

from __future__ import annotations

import datetime as dt

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError
from faceid_core.run.records import config_digest, manifest_digest
from faceid_core.run.state import Run
from faceid_core.tables import Tables


def require_past_or_present(config: NightlyConfig, today: dt.date) -> None:
    """Refuse a date that has not come.

    Raises:
        ConfigurationError: `run.date` lies after `today`.
    """
    date = config.run.date
    if date is not None and date > today:
        raise ConfigurationError(
            f"run.date is {date}, which has not come: today is {today} in {config.run.timezone}; give that day or an "
            "earlier one"
        )


def complete_run_of_date(run: Run) -> str | None:
    """The id of a complete run of the same name and date, with the same photos and settings; None if there is none.

    None as well where `run.date` is empty, or `run.force` asks to compute again. A run that a schedule started counts.

    Args:
        run: Admitted; its photos are digested.

    Raises:
        StoreError: the tables cannot be read.
    """
    config = run.config
    if config.run.date is None or config.run.force:
        return None
    same = {
        "name": config.name,
        "run_date": run.run_date,
        "config_digest": config_digest(run),
        "base_digest": run.plan.weights["base"],
        "manifest_digest": manifest_digest(run),
        "exit_status": 0,
        "not_reached": 0,
    }
    rows = Tables(run.store).read("runs").to_pylist()
    found = [row for row in rows if all(row[name] == value for name, value in same.items())]
    return max(found, key=lambda row: row["started_at"])["run_id"] if found else None


def nothing_to_do(run: Run, complete: str) -> str:
    """The sentence for a date whose run is complete."""
    return (
        f"run {complete} of {run.run_date} is complete, with the same photos and settings: nothing was done "
        "(run.force computes it again)"
    )
