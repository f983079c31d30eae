"""Erasing a person: tombstone, every object with all its versions, every row, and once more after the longest lease.

The tombstone is the record as well: written first, it says how far the erasure is, and in the end it is the receipt.
A process that was stopped may write at any later time. It looks for the tombstone behind each write and undoes it
(`store.cache.refuse_erased`); what one leaves that is killed in between, `finish_erasures` finds.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from faceid_core.errors import DamagedRecord, LinkInStore, StoreError
from faceid_core.identity import validate_identity_id
from faceid_core.outcomes import Outcome
from faceid_core.stages.work import is_score
from faceid_core.store import ObjectStore, erased_people
from faceid_core.store.layout import TOMBSTONES, identity_of_tombstone, identity_scope, tombstone
from faceid_core.store.lease import running_runs
from faceid_core.store.lease_record import TTL_SECONDS, LeaseWatch
from faceid_core.store.secret import IdentitySecret, is_identity_key
from faceid_core.store.tombstone import (
    BEGUN,
    COMPLETE,
    SWEPT,
    Receipt,
    moment,
    read_receipt,
    record,
    seconds_until,
)
from faceid_core.upkeep.gc import SHORTEST_GRACE_SECONDS
from faceid_core.upkeep.scopes import Scope, read_scope

if TYPE_CHECKING:
    from faceid_core.run.state import Run

# A writer looks for the tombstone right before its last write, and a lease is dead when it is not renewed for so long:
# whatever began before the tombstone has ended by then, or is undone by its own next look.
LONGEST_LEASE_SECONDS = TTL_SECONDS
_LONGEST_WAIT_SECONDS = (
    86_400.0  # a second sweep that is due later than this is a clock's mistake, and due now
)
# Clocks of machines and of the store differ; files are looked at again from so long before a completion.
_CLOCKS_DIFFER_SECONDS = 86_400.0


@dataclass(frozen=True)
class Erasures:
    """What became of several erasures.

    Attributes:
        receipts: of those that were begun or gone on with.
        unfinished: the keys of people whose erasure cannot be completed now; the next call tries again.
    """

    receipts: list[Receipt]
    unfinished: frozenset[str]


class WrittenMeanwhile(StoreError):
    """Objects of a person were written while they were swept; erasing again removes them."""


def erase(
    store: ObjectStore,
    secret: IdentitySecret,
    identity_id: str,
    *,
    wait: bool = True,
    longest_lease: float = LONGEST_LEASE_SECONDS,
    report: Callable[[str], None] | None = None,
) -> Receipt:
    """Remove a person for good; a run refuses the person from the tombstone on. Doing it again completes or repeats it.

    Args:
        store: any store that exists.
        secret: the store's identity secret.
        identity_id: as in the manifest.
        wait: sleep until the second sweep is due and do it; False leaves it to `finish_erasures` (`faceid gc`).
        longest_lease: seconds between the two sweeps.
        report: told what is going on, in words without ids.

    Returns:
        The receipt as it stands in the tombstone.

    Raises:
        ConfigurationError: this cannot be an identity id.
        StoreError: the store fails; the person stays refused, and running this again goes on.
    """
    report, watch = report or (lambda _: None), LeaseWatch()
    key = secret.identity_key(validate_identity_id(identity_id))
    receipt = _bury(store, key)
    report(f"{key}: the tombstone stands: runs refuse this person from now on")
    left = min(longest_lease, seconds_until(receipt.sweep_again_at))
    if receipt.state != SWEPT or _due(receipt):
        receipt = _sweep(store, receipt, report, watch, again_after=longest_lease)
        left = longest_lease  # whatever the wall clock says by now
    if receipt.state == SWEPT and wait:
        report(f"{key}: sweeping once more in {left:.0f} s, when whatever was being written has ended")
        time.sleep(left)
        receipt = _sweep(store, receipt, report, watch, again_after=longest_lease)
    if not receipt.objects and not receipt.rows:
        report(f"{key}: the store held nothing of this id: check its spelling")
    return receipt


def holds_person(store: ObjectStore, key: str) -> bool:
    """Whether the store has an object of a person, or the tombstone; rows of the tables are not looked for."""
    return store.head(tombstone(key)) is not None or any(True for _ in store.list(f"{identity_scope(key)}/"))


def finish_erasures(store: ObjectStore, *, report: Callable[[str], None] | None = None) -> Erasures:
    """Do the second sweep of every erasure that is due, and sweep again wherever something of a person has come back.

    Of a complete erasure everything that was written since is looked at: objects, and rows in files of the tables,
    whether a version names them or not.

    Args:
        store: The store.
        report: Called with lines that name people by key.

    Raises:
        StoreError: the store fails; what is left is left to the next time.
    """
    report, watch = report or (lambda _: None), LeaseWatch()
    receipts = {}
    for info in list(store.list(TOMBSTONES)):
        key = identity_of_tombstone(info.name)
        if is_identity_key(key) and info.name == tombstone(key):
            receipts[key] = read_receipt(store, key)
    came_back = _with_new_rows(store, receipts)
    found, unfinished = [], set()
    for key, receipt in receipts.items():
        due = receipt.state == BEGUN or key in came_back or (receipt.state == SWEPT and _due(receipt))
        try:
            if due or any(True for _ in store.list(f"{identity_scope(key)}/")):
                found.append(_sweep(store, receipt, report, watch, again_after=LONGEST_LEASE_SECONDS))
        except (DamagedRecord, LinkInStore, WrittenMeanwhile) as error:  # the other erasures go on
            report(f"{key}: the erasure is not complete and waits for the next time: {error}")
            unfinished.add(key)
    return Erasures(found, frozenset(unfinished))


def _with_new_rows(store: ObjectStore, receipts: Mapping[str, Receipt]) -> frozenset[str]:
    """People whose erasure is complete and of whom a file of the tables that was written later holds rows."""
    from .remains import people_in_files

    complete = {key: receipt for key, receipt in receipts.items() if receipt.state == COMPLETE}
    if not complete:
        return frozenset()
    began = moment()
    since = min(_known_until(receipt) for receipt in complete.values()) - _CLOCKS_DIFFER_SECONDS
    people = {key: receipt.stage_keys for key, receipt in complete.items()}
    found = people_in_files(store, people, since=since)
    for key, receipt in complete.items():
        # So that not every file is read every night. A day's files are read again anyway, so once a day will do.
        old = time.time() - _known_until(receipt) > _CLOCKS_DIFFER_SECONDS
        if old and not found.unreadable and key not in found.people:
            record(store, replace(receipt, looked_at=began))
    return found.people


def _known_until(receipt: Receipt) -> float:
    when = receipt.looked_at or receipt.completed_at or receipt.erased_at
    return dt.datetime.fromisoformat(when).timestamp()


def close_erased(run: Run) -> dict[str, tuple[str, ...]]:
    """Refuse the identities that were erased while a run ran: they have no figure in its tables.

    Returns:
        The people who were not refused before, with the stage keys of their results in this run.
    """
    stones = erased_people(run.store)
    late = {}
    for key in sorted(stones & set(run.outcome_reports)):
        outcome_report = run.outcome_reports[key]
        if outcome_report.reason != "erased":
            late[key] = tuple(outcome_report.stage_keys.values())
            outcome_report.outcome, outcome_report.value, outcome_report.threshold = None, None, None
            message = "this person was erased while the run was going on; nothing of theirs is published"
            outcome_report.close(Outcome.REFUSED, stage="publish", reason="erased", message=message)
        outcome_report.stage_keys.clear()  # also where a worker was the first to meet the tombstone
    return late


def _bury(store: ObjectStore, key: str) -> Receipt:
    """The tombstone, written before anything else is done."""
    new = Receipt(key, moment(), stage_keys=_keys_of_rows(read_scope(store, identity_scope(key))))
    if store.put_if_absent(tombstone(key), new.to_bytes()):
        return new
    return read_receipt(store, key)


def _keys_of_rows(scope: Scope) -> tuple[str, ...]:
    """The stage keys under which tables hold pictures and scores."""
    made = {key for stage, key in scope.manifests if stage == "generate" or is_score(stage)}
    return tuple(sorted(made))


def _sweep(
    store: ObjectStore,
    receipt: Receipt,
    report: Callable[[str], None],
    watch: LeaseWatch,
    *,
    again_after: float,
) -> Receipt:
    """Remove everything that is there, and say so in the tombstone."""
    from faceid_core.upkeep.tables import erase_rows, stage_keys_of

    from .remains import people_in_files

    key, second = receipt.identity_key, receipt.state != BEGUN
    made = _keys_of_rows(read_scope(store, identity_scope(key)))
    keys = {*receipt.stage_keys, *made, *stage_keys_of(store, key)}
    if keys != set(receipt.stage_keys) or receipt.state == COMPLETE:
        # Recorded before their names go, and before a completion is no longer true, should this be interrupted.
        state = SWEPT if second else BEGUN
        receipt = record(store, replace(receipt, state=state, stage_keys=tuple(sorted(keys))))
    objects, link = 0, None
    try:
        objects = store.purge(f"{identity_scope(key)}/")
        report(f"{key}: {objects} objects and versions removed")
    except LinkInStore as error:  # the rows go all the same, before this is told
        link = error
    busy = running_runs(store, watch, report=report)
    # What a running process is writing is younger than the grace period, as for a collection.
    store.sweep_unfinished(SHORTEST_GRACE_SECONDS if busy else again_after, delete=second)
    rows = erase_rows(store, key, keys, unnamed_age=None if busy else SHORTEST_GRACE_SECONDS)
    report(f"{key}: {sum(rows.values())} rows removed, and the files that held them")
    if link:
        raise link
    if any(True for _ in store.list(f"{identity_scope(key)}/")):
        raise WrittenMeanwhile(
            f"objects of {key} were written while it was erased; erase again: faceid gc --delete"
        )
    waiting = people_in_files(store, {key: keys}, unnamed=True)
    half_written, _ = store.sweep_unfinished(again_after, delete=False)
    done = second and not waiting.people and not waiting.unreadable and not half_written
    if second and not done:
        report(
            f"{key}: a file that nothing names yet holds data of this person, or is half written; it is removed when no "
            "run can be about to finish it, an hour after it was written: faceid gc --delete"
        )
    return record(
        store,
        replace(
            receipt,
            state=COMPLETE if done else SWEPT,
            sweep_again_at=None if done else moment(again_after),
            completed_at=moment() if done else None,
            looked_at=None,
            objects=receipt.objects + objects,
            rows=dict(Counter(receipt.rows) + Counter(rows)),
        ),
    )


def _due(receipt: Receipt) -> bool:
    return not 0.0 < seconds_until(receipt.sweep_again_at) <= _LONGEST_WAIT_SECONDS
