"""Who may run: a consent that ended refuses, and one that is missing where the configuration asks for it."""

from __future__ import annotations

import datetime as dt

import pytest

from faceid_core.identity import Identity
from faceid_core.night.people import admit
from faceid_core.outcomes import Outcome
from faceid_core.store.secret import IdentitySecret

TODAY = dt.date(2027, 3, 1)


class Photos:
    """Stands for photos that are all there."""

    def read(self, identity) -> bytes:
        return b"photo"


@pytest.mark.parametrize(
    ("consent", "required", "reason"),
    [
        ({}, False, None),
        ({}, True, "consent_missing"),
        ({"consent_ref": "form 7"}, True, None),
        ({"consent_until": TODAY}, True, None),
        ({"consent_until": TODAY - dt.timedelta(days=1)}, False, "consent_expired"),
        ({"consent_ref": "form 7", "consent_until": TODAY - dt.timedelta(days=1)}, True, "consent_expired"),
    ],
)
def test_consent(consent, required, reason):
    person = Identity("ann", "ann.png", "person", **consent)
    secret = IdentitySecret(b"s" * 32)
    subject, account = admit(
        person, secret, erased=(), source=Photos(), today=TODAY, require_consent=required
    )
    assert account.reason == reason and account.outcome == (Outcome.REFUSED if reason else None)
    assert (subject.photo_digest is None) == bool(reason), "no photo of whoever may not run is read"
