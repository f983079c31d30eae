"""What an interrupted run leaves behind: closed accounts, and its rows in the tables as far as they go."""

from __future__ import annotations

import logging
import signal
import threading
from contextlib import contextmanager

import pyarrow as pa

from faceid_core.errors import FaceidError
from faceid_core.outcomes import EXIT_BUG, EXIT_FAILURES, Outcome
from faceid_core.publish.fence import publish_fenced
from faceid_core.publish.rows import account_tables, run_tables
from faceid_core.publish.scores import collect
from faceid_core.run.records import write_status
from faceid_core.run.state import Run
from faceid_core.upkeep.erase import refuse_erased

log = logging.getLogger(__name__)

# Ray ends a process 60 s after its cluster went: whatever takes longer is not waited for.
ACCOUNT_SECONDS = 50.0
# Nights of this process whose account does not stand yet.
OPEN: dict[str, Run] = {}


@contextmanager
def account_at_the_end(run: Run):
    """Run a block of a run; whatever ends it, the run's account stands afterwards and its lease is given back.

    Blocks may be nested: the innermost one that is interrupted writes the account, the others find it written.
    """
    OPEN[run.run_id] = run
    try:
        yield
    except BaseException as error:
        leave_account(run, error)
        raise
    finally:
        OPEN.pop(run.run_id, None)
        run.release()


def leave_account(run: Run, error: BaseException) -> None:
    """Close every account, record the run as interrupted and publish its rows, unless that is done already.

    What interrupts a run that is published already changes none of its rows: the run is recorded as complete.
    It needs the store only, neither workers nor Prefect, and comes before they are closed. It is written in a thread
    of its own, which a second signal cannot break into; that thread is waited for up to `ACCOUNT_SECONDS`.

    Args:
        night: The interrupted run; it starts nothing more.
        error: What ended it.
    """
    # Ray's handler of SIGTERM sets an alarm that aborts the process after three seconds.
    signal.alarm(0)
    run.cancelled.set()
    # Not a daemon: a process that ends meanwhile waits for it.
    thread = threading.Thread(target=_leave_once, args=(run, error), name=f"account-{run.run_id}")
    thread.start()
    thread.join(ACCOUNT_SECONDS)


def _leave_once(run: Run, error: BaseException) -> None:
    with run.ending:
        if run.ended:
            return
        run.ended = True
        if run.published is not None:
            _record(run, "complete", **run.published)
            return
        ended = f"{type(error).__name__}: {error}"
        close_accounts(run, ended)
        _record(run, "interrupted", error=ended)
        publish_rows(run, error)


def _record(run: Run, state: str, **more) -> None:
    """Record the run's last status; one that fails keeps no rows back."""
    try:
        write_status(run, state, **more)
    except Exception as broken:
        log.warning("run %s: its status %r is not recorded: %s", run.run_id, state, broken)


def close_accounts(run: Run, ended: str) -> None:
    """Close everybody: who has every result is finished, the others were not reached.

    Args:
        night: The interrupted run.
        ended: What ended it.
    """
    run.freeze_outcomes()
    for account in run.accounts.values():
        if account.alive and not run.missing_results(account):
            account.finish()
        account.close(Outcome.NOT_REACHED, stage="run", reason="interrupted", message=ended)


def publish_rows(run: Run, error: BaseException) -> None:
    """Show the run and everybody's outcome in the tables, with the figures of whoever was finished.

    Best effort: what fails here is logged, because it must not hide what ended the run. Pages are left to the next
    run, which finds the results in the cache.
    """
    # Ctrl-C, a cancellation and the house's own errors leave people unreached; anything else is a bug of ours.
    ours = isinstance(error, Exception) and not isinstance(error, FaceidError)
    status = EXIT_BUG if ours else EXIT_FAILURES

    def rows() -> dict[str, pa.Table]:
        try:
            refuse_erased(run)
            found, summary = collect(run)
            return run_tables(run, found, summary, exit_status=status)
        except Exception as broken:
            log.warning("run %s: its figures are not published: %s", run.run_id, broken)
            return account_tables(run, exit_status=status)

    try:
        publish_fenced(run, rows)
    except Exception as broken:
        log.warning("run %s: its outcomes are not in the tables: %s", run.run_id, broken)
