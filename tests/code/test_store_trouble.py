"""A store that fails at one person's results costs that person, or nothing, and nobody else."""

from __future__ import annotations

from faceid_core.errors import StoreError
from faceid_core.night.drive import drive_inline
from faceid_core.night.night import Night
from faceid_core.night.opening import open_night
from faceid_core.night.reporter import LogReporter
from faceid_core.store import FolderStore, RunLease
from faceid_core.store.layout import stage_lease
from tests.end_to_end.conftest import people, small  # noqa: F401 - fixtures
from tests.end_to_end.test_inline_folder import outcomes


def test_a_lookup_that_fails_ends_one_persons_night_and_not_everybodys(small, people, tmp_path, monkeypatch):  # noqa: F811
    night = open_night(small(str(tmp_path / "store"), people), LogReporter())
    ann = next(s for s in night.subjects.values() if s.identity_id == "ann")
    whole = FolderStore.get

    def refuses(self, name):
        if name.startswith(f"{ann.scope}/stages/mask/"):
            raise StoreError(f"cannot read {name}: connection reset; try again")
        return whole(self, name)

    monkeypatch.setattr(FolderStore, "get", refuses)
    assert drive_inline(night).exit_status == 2
    assert outcomes(night) == {"ann": "failed", "bob": "done"}
    account = night.accounts[ann.name]
    assert (account.stage, account.reason) == ("mask", "StoreError") and "connection reset" in account.message


def test_reads_that_only_save_work_may_fail(small, people, tmp_path, monkeypatch):  # noqa: F811
    """Whether somebody else made it meanwhile, who is at it, which pictures are there: not knowing costs time only."""
    night = open_night(small(str(tmp_path / "store"), people), LogReporter())
    whole, during = Night.execute, []

    def refuse(*_):
        raise StoreError("connection reset")

    def execute(self, stage, works, executor):
        with monkeypatch.context() as patch:
            if stage in ("personalise", "generate"):
                during.append(stage)
                patch.setattr("faceid_core.store.StageCache.peek", refuse)
                patch.setattr("faceid_core.store.StageCache.manifests", refuse)
                patch.setattr(RunLease, "look", refuse)
            return whole(self, stage, works, executor)

    monkeypatch.setattr(Night, "execute", execute)
    assert drive_inline(night).exit_status == 0
    assert during == ["personalise", "generate"] and set(outcomes(night).values()) == {"done"}


def test_a_process_takes_over_its_own_lease_and_nobody_elses(folder_store):
    name = stage_lease(f"identities/{'ab' * 16}", "personalise", "cd" * 32)
    left = RunLease.try_take(folder_store, "a-run", name)
    left.lost = True  # as after a delete that failed: it stays, and nobody renews it
    left.drop()
    assert RunLease.try_take(folder_store, "another-run", name) is None
    again = RunLease.try_take(folder_store, "a-run", name)
    assert again is not None
    again.drop()
    assert folder_store.head(name) is None
