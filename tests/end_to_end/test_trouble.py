"""Trouble in the middle of a night on a folder store: who watches, who breaks and who stops it leave an account."""

from __future__ import annotations

import json

from faceid_core.errors import StoreError
from faceid_core.night import drive as drive_module
from faceid_core.night.drive import drive_inline
from faceid_core.night.night import Night
from faceid_core.night.opening import open_night
from faceid_core.night.reporter import LogReporter
from tests.end_to_end.test_inline_folder import outcomes


def status_of(night) -> dict:
    return json.loads(night.store.get(f"runs/{night.run_id}/status.json"))


def test_a_status_that_cannot_be_written_under_way_ends_no_night(small, people, tmp_path, monkeypatch):
    night = open_night(small(str(tmp_path / "store"), people), LogReporter())
    whole = drive_module.write_status

    def fails(night, state, **more):
        if state == "running":
            raise StoreError("the connection was reset")
        whole(night, state, **more)

    monkeypatch.setattr(drive_module, "write_status", fails)
    assert drive_inline(night).exit_status == 0
    assert outcomes(night) == {"ann": "done", "bob": "done"}
    assert status_of(night)["state"] == "complete"


def test_whoever_lost_a_result_on_the_way_fails_there_and_the_others_go_on(
    small, people, tmp_path, monkeypatch
):
    night = open_night(small(str(tmp_path / "store"), people), LogReporter())
    ann = next(s for s in night.subjects.values() if s.identity_id == "ann")
    whole = Night.execute

    def forgets_ann(self, stage, works, executor):
        dones = whole(self, stage, works, executor)
        if stage == "parse":
            del ann.manifests["parse"]
        return dones

    monkeypatch.setattr(Night, "execute", forgets_ann)
    assert drive_inline(night).exit_status == 2
    assert outcomes(night) == {"ann": "failed", "bob": "done"}
    account = night.accounts[ann.name]
    assert (account.stage, account.reason) == ("parse", "no_outcome") and ann.name in account.message
