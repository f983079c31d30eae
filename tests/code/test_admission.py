"""Who may run: an ended consent refuses, and one that is missing where it is asked for; whose photos are one."""

from __future__ import annotations

import datetime as dt
import io

import pytest
from rich.console import Console

from faceid_core.identity import Identity
from faceid_core.outcomes import Outcome
from faceid_core.plan.planning import plan_run
from faceid_core.run.admission import admit
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.store.secret import IdentitySecret
from flows.cli_plan import print_plan
from tests.helpers.pretend_night import pretend_config, write_manifest

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
    subject, outcome_report = admit(
        person, secret, erased=(), source=Photos(), today=TODAY, require_consent=required
    )
    assert outcome_report.reason == reason and outcome_report.outcome == (Outcome.REFUSED if reason else None)
    assert (subject.photo_digest is None) == bool(reason), "no photo of a refused identity is read"


def test_identities_with_the_very_same_photo_are_counted(tmp_path):
    manifest = write_manifest(tmp_path / "people", 4)
    for copy in ("000002.png", "000003.png"):
        (manifest.parent / copy).write_bytes((manifest.parent / "000000.png").read_bytes())
    (manifest.parent / "000001.png").unlink()
    run = open_run(pretend_config(str(tmp_path / "store"), manifest), LogReporter())
    run.release()
    found = {outcome_report.identity_id: outcome_report.same_photo for outcome_report in run.outcome_reports.values()}
    assert found == {"person-000000": 2, "person-000001": None, "person-000002": 2, "person-000003": 2}
    assert [outcome_report.outcome for outcome_report in run.outcome_reports.values()].count(None) == 3, (
        "no identity is rejected for it"
    )
    out = io.StringIO()
    print_plan(plan_run(pretend_config(str(tmp_path / "store"), manifest)), Console(file=out))
    assert "one and the same photo: person-000000 = person-000002 = person-000003" in out.getvalue()
