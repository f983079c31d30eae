"""Garbage collection: marks what results, pins and tables need, and sweeps the rest once it is old enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .objects import ObjectStore

GRACE_SECONDS = 7 * 86_400.0


@dataclass(frozen=True)
class Collected:
    """What a collection found; with `delete` also what it removed.

    Attributes:
        counts: kind of garbage -> objects.
        bytes: kind of garbage -> bytes.
        kept_young: garbage that is within the grace period.
        scopes_in_use: scopes left alone because a running night works on them.
        deleted: whether the garbage was removed.
    """

    counts: dict[str, int]
    bytes: dict[str, int]
    kept_young: int
    scopes_in_use: int
    deleted: bool


def collect(
    store: ObjectStore,
    grace: float = GRACE_SECONDS,
    delete: bool = False,
    *,
    unused_days: float | None = None,
    say: Callable[[str], None] | None = None,
) -> Collected:
    """Find, and with `delete` remove, what nothing refers to and what is older than `grace` seconds.

    Safe beside a running night: its people's scopes are left alone, and so is everything young.

    Args:
        store: any store.
        grace: seconds since an object was written in which it is never swept.
        delete: False only reports.
        unused_days: also let go of results that no run of so many days used and no pin keeps; None keeps all results.
        say: told what is going on, in words without ids.

    Raises:
        StoreError: the store fails; what was not removed is found again next time.
    """
    raise NotImplementedError
