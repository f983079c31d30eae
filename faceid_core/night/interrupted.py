"""What an interrupted night leaves behind: closed accounts, and its rows in the tables as far as they go."""

from __future__ import annotations

import logging

import pyarrow as pa

from faceid_core.errors import FaceidError
from faceid_core.night.erase import refuse_erased
from faceid_core.night.fence import publish_fenced
from faceid_core.night.night import Night
from faceid_core.night.rows import account_tables, run_tables
from faceid_core.night.scores import collect
from faceid_core.outcomes import EXIT_BUG, EXIT_FAILURES, Outcome

log = logging.getLogger(__name__)


def close_accounts(night: Night, ended: str) -> None:
    """Close everybody: who has every result is finished, the others were not reached.

    Args:
        night: The interrupted night.
        ended: What ended it.
    """
    for account in night.accounts.values():
        if account.alive and not night.missing(account):
            account.finish()
        account.close(Outcome.NOT_REACHED, stage="run", reason="interrupted", message=ended)


def publish_rows(night: Night, error: BaseException) -> None:
    """Show the run and everybody's outcome in the tables, with the figures of whoever was finished.

    Best effort: what fails here is logged, because it must not hide what ended the run. Pages are left to the next
    run, which finds the results in the cache.
    """
    # Ctrl-C, a cancellation and the house's own errors leave people unreached; anything else is a bug of ours.
    ours = isinstance(error, Exception) and not isinstance(error, FaceidError)
    status = EXIT_BUG if ours else EXIT_FAILURES

    def rows() -> dict[str, pa.Table]:
        try:
            refuse_erased(night)
            found, summary = collect(night)
            return run_tables(night, found, summary, exit_status=status)
        except Exception as broken:
            log.warning("run %s: its figures are not published: %s", night.run_id, broken)
            return account_tables(night, exit_status=status)

    try:
        publish_fenced(night, rows)
    except Exception as broken:
        log.warning("run %s: its outcomes are not in the tables: %s", night.run_id, broken)
