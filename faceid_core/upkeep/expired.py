"""People whose consent has ended: which they are, and their erasure once a grace period is over.

The manifest says when a consent ends, so a person who was taken out of it is not found here: `faceid erase` has to be
asked for those.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from faceid_core.config import NightlyConfig, changed
from faceid_core.errors import ConfigurationError, DamagedRecord, LinkInStore
from faceid_core.run.identities import read_identities
from faceid_core.store import ObjectStore, erased_people
from faceid_core.store.layout import identity_scope
from faceid_core.store.secret import IdentitySecret
from faceid_core.store.tombstone import COMPLETE
from faceid_core.upkeep.erase import LONGEST_LEASE_SECONDS, Erasures, WrittenMeanwhile, erase, finish_erasures


@dataclass(frozen=True)
class ExpiredConsent:
    """A person of whom the store holds data after the end of the consent.

    Attributes:
        identity_id: As in the manifest.
        identity_key: The same person in logs and in Prefect.
        days: Since the last day of the consent; at least 1.
        due: Whether that is more than `consent.erase_after_days`; never where that is empty.
    """

    identity_id: str
    identity_key: str
    days: int
    due: bool


def expired_consents(config: NightlyConfig, store: ObjectStore, secret: IdentitySecret) -> list[ExpiredConsent]:
    """The people of the manifest whose consent has ended and of whom the store holds data, longest ago first.

    Args:
        config: Names the manifest, the grace period and the timezone of today.
        store: The store.
        secret: Its identity secret.

    Raises:
        ConfigurationError: the manifest cannot be read.
        StoreError: the store fails.
    """
    # Only where there are tables to read, since their library takes a second to import.
    from faceid_core.upkeep.tables import people_of_outcomes

    grace, erased = config.consent.erase_after_days, erased_people(store)
    ended = _ended(config)
    # Rows stay where a collection removed unused results, and of a person whom every run refused or rejected.
    in_tables = people_of_outcomes(store) if ended else set()
    found = []
    for identity_id, days in ended.items():
        key = secret.identity_key(identity_id)
        if key not in erased and (key in in_tables or any(True for _ in store.list(f"{identity_scope(key)}/"))):
            found.append(ExpiredConsent(identity_id, key, days, grace is not None and days > grace))
    return sorted(found, key=lambda each: (-each.days, each.identity_key))


def _ended(config: NightlyConfig) -> dict[str, int]:
    """Identity id -> days since the last day of the consent, of the people whose consent has ended."""
    today = dt.datetime.now(config.run.zone).date()
    return {
        each.identity_id: (today - each.consent_until).days
        for each in read_identities(changed(config, {"run.only": ()}, source="consents"))
        if each.consent_until is not None and each.consent_expired(today)
    }


def erase_expired(
    config: NightlyConfig,
    store: ObjectStore,
    secret: IdentitySecret,
    found: Sequence[ExpiredConsent],
    *,
    wait: bool = True,
    longest_lease: float = LONGEST_LEASE_SECONDS,
    report: Callable[[str], None] | None = None,
) -> Erasures:
    """Erase those of the found people who are due, and go on with erasures that were begun before.

    Without `consent.erase_after_days` nothing is done. The manifest is read again before each erasure, so that a consent
    that was renewed meanwhile counts. Where one person's erasure cannot be completed, that is told, and the others go on.

    Args:
        config: As for `expired_consents`.
        store: The store.
        secret: Its identity secret.
        found: Of `expired_consents`; others are not erased.
        wait: Wait for the second sweep; otherwise the next call or `finish_erasures` does it.
        longest_lease: Seconds between the two sweeps.
        report: Called with lines that name people by key.

    Raises:
        ConfigurationError: more people are due than `consent.erase_at_most`, and none was erased; or the manifest
            cannot be read.
        StoreError: the store fails; calling this again goes on.
    """
    tell, grace = report or (lambda _: None), config.consent.erase_after_days
    if grace is None:
        return Erasures([], frozenset())
    due = [each for each in found if each.due]
    if len(due) > (most := config.consent.erase_at_most):
        raise ConfigurationError(
            f"the consent of {len(due)} people ended more than {grace} days ago, and consent.erase_at_most is {most}: "
            "none was erased. Check the dates of the manifest and of this machine; then raise consent.erase_at_most"
        )
    begun = finish_erasures(store, report=report)
    receipts, unfinished = {receipt.identity_key: receipt for receipt in begun.receipts}, set(begun.unfinished)

    def sweep(person: ExpiredConsent, *, wait: bool) -> None:
        key = person.identity_key
        try:
            receipts[key] = erase(
                store, secret, person.identity_id, wait=wait, longest_lease=longest_lease, report=report
            )
            if wait and receipts[key].state != COMPLETE:
                unfinished.add(key)
        except (DamagedRecord, LinkInStore, WrittenMeanwhile) as error:
            tell(f"{key}: the erasure is not complete and waits for the next time: {error}")
            unfinished.add(key)

    for person in due:
        if _ended(config).get(person.identity_id, 0) > grace:
            sweep(person, wait=False)
        else:
            tell(f"{person.identity_key}: the consent was renewed meanwhile; not erased")
    # The first of these waits for its second sweep; that of the others is due by then.
    for person in due if wait else ():
        if person.identity_key in receipts:
            sweep(person, wait=True)
    return Erasures(list(receipts.values()), frozenset(unfinished))
