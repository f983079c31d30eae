"""People whose consent has ended: which they are, and their erasure once a grace period is over.

The manifest says when a consent ends, so a person who was taken out of it is not found here: `faceid erase` has to be
asked for those.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from faceid_core.config import NightlyConfig, changed
from faceid_core.errors import ConfigurationError
from faceid_core.run.identities import read_identities
from faceid_core.store import ObjectStore, erased_people
from faceid_core.store.layout import identity_scope
from faceid_core.store.secret import IdentitySecret
from faceid_core.store.tombstone import Receipt
from faceid_core.upkeep.erase import LONGEST_LEASE_SECONDS, erase


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
    today = dt.datetime.now(config.run.zone).date()
    grace, erased = config.consent.erase_after_days, erased_people(store)
    found = []
    for identity in read_identities(changed(config, {"run.only": ()}, source="consents")):
        if identity.consent_until is None or not identity.consent_expired(today):
            continue
        key = secret.identity_key(identity.identity_id)
        if key in erased or not any(True for _ in store.list(f"{identity_scope(key)}/")):
            continue
        days = (today - identity.consent_until).days
        found.append(ExpiredConsent(identity.identity_id, key, days, grace is not None and days > grace))
    return sorted(found, key=lambda each: (-each.days, each.identity_key))


def erase_expired(
    config: NightlyConfig,
    store: ObjectStore,
    secret: IdentitySecret,
    *,
    wait: bool = True,
    longest_lease: float = LONGEST_LEASE_SECONDS,
    report: Callable[[str], None] | None = None,
) -> list[Receipt]:
    """Erase the people whose consent ended more than `consent.erase_after_days` ago; none where that is empty.

    The manifest is read again before each erasure, so that a consent that was renewed meanwhile counts.

    Args:
        config: As for `expired_consents`.
        store: The store.
        secret: Its identity secret.
        wait: Wait for the second sweep; otherwise `finish_erasures` does it.
        longest_lease: Seconds between the two sweeps.
        report: Called with lines that name people by key.

    Returns:
        A receipt for each person.

    Raises:
        ConfigurationError: more people are due than `consent.erase_at_most`, and none was erased; or the manifest
            cannot be read.
        StoreError: the store fails; running this again goes on.
    """
    due = [each for each in expired_consents(config, store, secret) if each.due]
    if len(due) > (most := config.consent.erase_at_most):
        raise ConfigurationError(
            f"the consent of {len(due)} people ended more than {config.consent.erase_after_days} days ago, and "
            f"consent.erase_at_most is {most}: none was erased. Check the dates of the manifest and of this machine; "
            "then raise consent.erase_at_most"
        )
    receipts: dict[str, Receipt] = {}
    for person in due:
        still_due = {each.identity_key for each in expired_consents(config, store, secret) if each.due}
        if person.identity_key not in still_due:
            if report is not None:
                report(f"{person.identity_key}: the consent was renewed meanwhile; not erased")
            continue
        receipts[person.identity_key] = erase(
            store, secret, person.identity_id, wait=False, longest_lease=longest_lease, report=report
        )
    # The first of these waits for its second sweep; that of the others is due by then.
    for person in due if wait else ():
        if person.identity_key in receipts:
            receipts[person.identity_key] = erase(
                store, secret, person.identity_id, longest_lease=longest_lease, report=report
            )
    return list(receipts.values())
