"""The tombstone of an erased person: that it stands refuses the person; what it holds is how far the erasure is."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from ..errors import Conflict, ObjectMissing, StoreError
from .keys import canonical_json
from .layout import tombstone
from .objects import ObjectStore
from .records import Count, Digest, PersonKey

FORMAT = "faceid-erasure/1"
BEGUN, SWEPT, COMPLETE = "begun", "swept", "complete"
_ATTEMPTS = 20


def _moment(text: str) -> str:
    if dt.datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without a zone")
    return text


Moment = Annotated[str, AfterValidator(_moment)]


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
        stage_keys: of the person's pictures and scores: rows of scores that a stopped process brings are found by them.
        looked_at: until when a complete erasure's tables were looked at again, and nothing of the person had come back.
        late: writes of the person that a process undid because the tombstone stood by then.
    """

    __pydantic_config__ = ConfigDict(strict=True)

    identity_key: PersonKey
    erased_at: Moment
    state: Literal["begun", "swept", "complete"] = BEGUN
    sweep_again_at: Moment | None = None
    completed_at: Moment | None = None
    objects: Count = 0
    rows: dict[str, Count] = field(default_factory=dict)
    stage_keys: tuple[Digest, ...] = ()
    looked_at: Moment | None = None
    late: Count = 0

    def to_bytes(self) -> bytes:
        """The tombstone as it is stored."""
        return canonical_json({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_bytes(cls, data: bytes, identity_key: str) -> Receipt:
        """Read a tombstone; one that says nothing else than that it stands is an erasure that has only begun."""
        try:
            return cls.checked(data, identity_key)
        except ValueError:
            return cls(identity_key, moment())

    @classmethod
    def checked(cls, data: bytes, identity_key: str) -> Receipt:
        """As `from_bytes`. Raises ValueError, saying what is wrong, for what is no receipt of this person."""
        if data == b"{}":  # a tombstone that an operator put there
            return cls(identity_key, moment())
        try:
            found = _adapter().validate_json(data)
            if found.identity_key != identity_key or json.loads(data).get("format") != FORMAT:
                raise ValueError(f"it is no {FORMAT} of this person")
            return found
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@cache
def _adapter() -> TypeAdapter:
    return TypeAdapter(Receipt)


def read_receipt(store: ObjectStore, identity_key: str) -> Receipt:
    """The person's tombstone. Raises ObjectMissing."""
    return Receipt.from_bytes(store.get(tombstone(identity_key)), identity_key)


def record(store: ObjectStore, receipt: Receipt) -> Receipt:
    """Put a receipt in the tombstone's place, which is never absent meanwhile; the receipt that stands now.

    A completion is put off where a process undid a write of the person since the receipt was read: versions of it, which
    only an erasure removes, may be left.

    Raises:
        StoreError: the store fails.
    """

    def next_one(current: Receipt | None) -> Receipt:
        late = current.late if current else 0
        if receipt.state == COMPLETE and late > receipt.late:
            return replace(receipt, state=SWEPT, sweep_again_at=moment(), completed_at=None, late=late)
        return replace(receipt, late=max(late, receipt.late))

    return _exchange(store, receipt.identity_key, next_one)


def reopen(store: ObjectStore, identity_key: str) -> None:
    """Say that a write of an erased person is being undone, so that `faceid gc --delete` sweeps once more.

    Raises:
        StoreError: the store fails.
    """

    def next_one(current: Receipt | None) -> Receipt:
        found = current or Receipt(identity_key, moment())
        if found.state == COMPLETE:
            found = replace(found, state=SWEPT, sweep_again_at=moment(), completed_at=None)
        return replace(found, late=found.late + 1)

    _exchange(store, identity_key, next_one)


def moment(later: float = 0.0) -> str:
    """The present, or `later` seconds after it, as a receipt writes it."""
    return (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=later)).isoformat(timespec="milliseconds")


def seconds_until(when: str | None) -> float:
    """Seconds from now to a moment of a receipt; 0 when it has passed, or where there is none."""
    if when is None:
        return 0.0
    return max(0.0, (dt.datetime.fromisoformat(when) - dt.datetime.now(dt.UTC)).total_seconds())


def _exchange(
    store: ObjectStore, identity_key: str, next_one: Callable[[Receipt | None], Receipt]
) -> Receipt:
    name = tombstone(identity_key)
    for _ in range(_ATTEMPTS):
        try:
            data, etag = store.get_with_etag(name)
            new = next_one(Receipt.from_bytes(data, identity_key))
        except ObjectMissing:
            etag, new = None, next_one(None)
        try:
            store.replace_if_match(name, new.to_bytes(), etag)
            return new
        except Conflict:
            continue
    raise StoreError(
        f"{name} in {store.url} keeps changing; is the person erased by another process as well?"
    )
