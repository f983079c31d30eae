"""Trouble in the middle of a night on a folder store: who watches, who breaks and who stops it leave an account."""

from __future__ import annotations

import json

from faceid_core.errors import StoreError
from faceid_core.night import drive as drive_module
from faceid_core.night.drive import drive_inline
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
