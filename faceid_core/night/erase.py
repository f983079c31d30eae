"""Erasing a person: tombstone, every object with all its versions, every row, and once more after the longest lease."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from faceid_core.store import ObjectStore
from faceid_core.store.secret import IdentitySecret


@dataclass(frozen=True)
class Receipt:
    """What an erasure did, as it stands in the tombstone; holds the identity key, never the id.

    Attributes:
        identity_key: who.
        erased_at: when the tombstone was written, UTC, ISO 8601.
        state: 'swept' when the second sweep is still to come, 'complete' after it.
        sweep_again_at: when the second sweep is due, UTC, ISO 8601; None when complete.
        objects: objects and versions removed, over all sweeps.
        rows: table -> rows removed, over all sweeps.
    """

    identity_key: str
    erased_at: str
    state: str
    sweep_again_at: str | None
    objects: int
    rows: dict[str, int]


def erase(
    store: ObjectStore,
    secret: IdentitySecret,
    identity_id: str,
    *,
    wait: bool = True,
    say: Callable[[str], None] | None = None,
) -> Receipt:
    """Remove a person for good; a run refuses the person from the tombstone on. Doing it again completes or repeats it.

    Args:
        store: any store that exists.
        secret: the store's identity secret.
        identity_id: as in the manifest.
        wait: sleep until the second sweep is due and do it; False leaves it to `finish_erasures` (`faceid gc`).
        say: told what is going on, in words without ids.

    Raises:
        ConfigurationError: this cannot be an identity id.
        StoreError: the store fails; the person stays refused, and running this again goes on.
    """
    raise NotImplementedError


def finish_erasures(store: ObjectStore, *, say: Callable[[str], None] | None = None) -> list[Receipt]:
    """Do the second sweep of every erasure that is due, and go on with those that a crash interrupted."""
    raise NotImplementedError
