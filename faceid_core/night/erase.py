"""Erasing a person: tombstone, every object with all its versions, every row, and once more after the longest lease.

The tombstone is the record as well: written first, it says how far the erasure is, and in the end it is the receipt.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from faceid_core.errors import Conflict, ObjectMissing, StoreError
from faceid_core.identity import validate_identity_id
from faceid_core.outcomes import Outcome
from faceid_core.store import ObjectStore
from faceid_core.store.keys import canonical_json
from faceid_core.store.layout import identity_scope, tombstone
from faceid_core.store.lease import running_runs
from faceid_core.store.scopes import read_scope
from faceid_core.store.secret import IdentitySecret, is_identity_key

if TYPE_CHECKING:
    from faceid_core.night.night import Night

FORMAT = "faceid-erasure/1"
# A writer looks for the tombstone right before its last write, and a lease is dead when it is not renewed for so long:
# whatever began before the tombstone has ended by then, or ends at its next look.
LONGEST_LEASE_SECONDS = 60.0
BEGUN, SWEPT, COMPLETE = "begun", "swept", "complete"
_ATTEMPTS = 20


@dataclass(frozen=True)
class Receipt:
    """What an erasure did, as it stands in the tombstone; holds the identity key, never the id.

    Attributes:
        identity_key: who.
        erased_at: when the tombstone was written, UTC, ISO 8601.
        state: 'begun', 'swept' when the second sweep is still to come, 'complete' after it.
        sweep_again_at: when the second sweep is due, UTC, ISO 8601; None before the first sweep and when complete.
        completed_at: when the second sweep ended.
        objects: objects and versions removed, over all sweeps.
        rows: table -> rows removed, over all sweeps.
        stage_keys: of the person's results, until their rows are gone.
    """

    identity_key: str
    erased_at: str
    state: str = BEGUN
    sweep_again_at: str | None = None
    completed_at: str | None = None
    objects: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    stage_keys: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """The tombstone as it is stored."""
        return canonical_json({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_bytes(cls, data: bytes, identity_key: str) -> Receipt:
        """Read a tombstone; one that says nothing else than that it stands is an erasure that has only begun."""
        try:
            record = json.loads(data)
            if record.pop("format") != FORMAT:
                raise ValueError("another format")
            return cls(**record | {"stage_keys": tuple(record["stage_keys"]), "identity_key": identity_key})
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls(identity_key, _now())


def erase(
    store: ObjectStore,
    secret: IdentitySecret,
    identity_id: str,
    *,
    wait: bool = True,
    longest_lease: float = LONGEST_LEASE_SECONDS,
    say: Callable[[str], None] | None = None,
) -> Receipt:
    """Remove a person for good; a run refuses the person from the tombstone on. Doing it again completes or repeats it.

    Args:
        store: any store that exists.
        secret: the store's identity secret.
        identity_id: as in the manifest.
        wait: sleep until the second sweep is due and do it; False leaves it to `finish_erasures` (`faceid gc`).
        longest_lease: seconds between the two sweeps.
        say: told what is going on, in words without ids.

    Returns:
        The receipt as it stands in the tombstone.

    Raises:
        ConfigurationError: this cannot be an identity id.
        StoreError: the store fails; the person stays refused, and running this again goes on.
    """
    say = say or (lambda _: None)
    key = secret.identity_key(validate_identity_id(identity_id))
    receipt = _bury(store, key)
    say(f"{key}: the tombstone stands: runs refuse this person from now on")
    left = min(longest_lease, _seconds_until(receipt.sweep_again_at))
    if receipt.state != SWEPT or _due(receipt):
        receipt = _sweep(store, receipt, say, again_after=longest_lease)
        left = longest_lease  # whatever the wall clock says by now
    if receipt.state == SWEPT and wait:
        say(f"{key}: sweeping once more in {left:.0f} s, when whatever was being written has ended")
        time.sleep(left)
        receipt = _sweep(store, receipt, say, again_after=longest_lease)
    return receipt


def finish_erasures(store: ObjectStore, *, say: Callable[[str], None] | None = None) -> list[Receipt]:
    """Do the second sweep of every erasure that is due, and the first of those that were interrupted.

    Returns:
        The receipts of erasures that were gone on with.

    Raises:
        StoreError: the store fails; what is left is left to the next time.
    """
    found = []
    for info in list(store.list("tombstones/")):
        key = info.name.rpartition("/")[2].removesuffix(".json")
        if not is_identity_key(key):
            continue
        receipt = Receipt.from_bytes(store.get(info.name), key)
        remains = any(True for _ in store.list(f"{identity_scope(key)}/"))
        if receipt.state == BEGUN or remains or (receipt.state == SWEPT and _due(receipt)):
            found.append(_sweep(store, receipt, say or (lambda _: None), again_after=LONGEST_LEASE_SECONDS))
    return found


def refuse_erased(night: Night) -> None:
    """Before a night publishes: whoever was erased while it ran is refused, and has no figure in its tables."""
    stones = {info.name.rpartition("/")[2].removesuffix(".json") for info in night.store.list("tombstones/")}
    for key in stones & set(night.accounts):
        account = night.accounts[key]
        if account.reason != "erased":
            account.outcome, account.value, account.threshold = None, None, None
            account.stage_keys.clear()
            message = "this person was erased while the run was going on; nothing of theirs is published"
            account.close(Outcome.REFUSED, stage="publish", reason="erased", message=message)


def _bury(store: ObjectStore, key: str) -> Receipt:
    """The tombstone, written before anything else is done."""
    known = tuple(sorted({stage_key for _, stage_key in read_scope(store, identity_scope(key)).manifests}))
    new = Receipt(key, _now(), stage_keys=known)
    if store.put_if_absent(tombstone(key), new.to_bytes()):
        return new
    return Receipt.from_bytes(store.get(tombstone(key)), key)


def _sweep(
    store: ObjectStore, receipt: Receipt, say: Callable[[str], None], *, again_after: float
) -> Receipt:
    """Remove everything that is there, and say so in the tombstone."""
    from faceid_core.tables.upkeep import erase_rows

    key, second = receipt.identity_key, receipt.state != BEGUN
    scope = read_scope(store, identity_scope(key))
    keys = {*receipt.stage_keys, *(stage_key for _, stage_key in scope.manifests)}
    if keys != set(receipt.stage_keys):  # known before their names go, should this be interrupted
        receipt = _record(store, replace(receipt, stage_keys=tuple(sorted(keys))))
    objects = store.purge(f"{identity_scope(key)}/")
    say(f"{key}: {objects} objects and versions removed")
    store.sweep_unfinished(again_after, delete=second)
    unnamed_age = None if running_runs(store) else again_after
    rows = erase_rows(store, key, keys, unnamed_age=unnamed_age)
    say(f"{key}: {sum(rows.values())} rows removed, and the files that held them")
    if any(True for _ in store.list(f"{identity_scope(key)}/")):
        raise StoreError(
            f"objects of {key} were written while it was erased; erase again: faceid gc --delete"
        )
    return _record(
        store,
        replace(
            receipt,
            state=COMPLETE if second else SWEPT,
            sweep_again_at=None if second else _now(again_after),
            completed_at=_now() if second else None,
            objects=receipt.objects + objects,
            rows=dict(Counter(receipt.rows) + Counter(rows)),
            stage_keys=() if second else receipt.stage_keys,
        ),
    )


def _record(store: ObjectStore, receipt: Receipt) -> Receipt:
    """Put the receipt in the tombstone's place; the tombstone is never absent meanwhile."""
    name = tombstone(receipt.identity_key)
    for _ in range(_ATTEMPTS):
        try:
            etag = store.get_with_etag(name)[1]
        except ObjectMissing:
            etag = None
        try:
            store.replace_if_match(name, receipt.to_bytes(), etag)
            return receipt
        except Conflict:
            continue
    raise StoreError(
        f"{name} in {store.url} keeps changing; is the person erased by another process as well?"
    )


def _due(receipt: Receipt) -> bool:
    return _seconds_until(receipt.sweep_again_at) <= 0


def _seconds_until(moment: str | None) -> float:
    if moment is None:
        return 0.0
    return max(0.0, (dt.datetime.fromisoformat(moment) - dt.datetime.now(dt.UTC)).total_seconds())


def _now(later: float = 0.0) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=later)).isoformat(timespec="milliseconds")
