"""A store that fails at one person's results costs that person alone, or nothing."""

from __future__ import annotations

from faceid_core import nightly as drive
from faceid_core.errors import PhotoRejected, StoreError
from faceid_core.nightly import drive_inline
from faceid_core.publish import pages, publish
from faceid_core.run.execute import execute_stage
from faceid_core.run.lookup import lookup_stage
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.store import FolderStore, RunLease, StageCache
from faceid_core.store.layout import stage_lease
from tests.end_to_end.conftest import people, small  # noqa: F401 - fixtures
from tests.end_to_end.test_inline_folder import outcomes
from tests.helpers.overlapping import Overlapping
from tests.helpers.replaced import replace_everywhere


def test_a_lookup_that_fails_ends_one_persons_night_and_not_everybodys(small, people, tmp_path, monkeypatch):  # noqa: F811
    run = open_run(small(str(tmp_path / "store"), people), LogReporter())
    ann = next(s for s in run.subjects.values() if s.identity_id == "ann")
    whole = FolderStore.get

    def refuses(self, name):
        if name.startswith(f"{ann.scope}/stages/mask/"):
            raise StoreError(f"cannot read {name}: connection reset; try again")
        return whole(self, name)

    monkeypatch.setattr(FolderStore, "get", refuses)
    assert drive_inline(run).exit_status == 2
    assert outcomes(run) == {"ann": "failed", "bob": "done"}
    outcome_report = run.outcome_reports[ann.name]
    assert (outcome_report.stage, outcome_report.reason) == ("mask", "StoreError")
    assert "connection reset" in outcome_report.message


def test_reads_that_only_save_work_may_fail(small, people, tmp_path, monkeypatch):  # noqa: F811
    """Whether somebody else made it meanwhile, who is at it, which pictures are there: not knowing costs time only."""
    run = open_run(small(str(tmp_path / "store"), people), LogReporter())
    during, read_manifest = [], StageCache.read_manifest

    def refuse(*_):
        raise StoreError("connection reset")

    def refuse_to_look(self, stage, key, *, read_only=False):
        return refuse() if read_only else read_manifest(self, stage, key)

    def execute(run, stage, works, executor):
        with monkeypatch.context() as patch:
            if stage in ("personalize", "generate"):
                during.append(stage)
                patch.setattr("faceid_core.store.StageCache.read_manifest", refuse_to_look)
                patch.setattr("faceid_core.store.StageCache.manifests", refuse)
                patch.setattr(RunLease, "look", refuse)
            return execute_stage(run, stage, works, executor)

    replace_everywhere(monkeypatch, execute_stage, execute)
    assert drive_inline(run).exit_status == 0
    assert during == ["personalize", "generate"] and set(outcomes(run).values()) == {"done"}


def test_publishing_reads_on_when_one_persons_results_cannot_be_read(small, people, tmp_path, monkeypatch):  # noqa: F811
    """Bob has a page and rows although ann's scores answer nothing; the next run makes up for hers."""
    config = small(str(tmp_path / "store"), people)
    run = open_run(config, LogReporter())
    ann = next(s for s in run.subjects.values() if s.identity_id == "ann")
    whole = StageCache.read

    def refuses(self, manifest, output):
        if manifest.stage_key == ann.manifests["score-concepts"].stage_key:
            raise StoreError("connection reset")
        return whole(self, manifest, output)

    def collect(run):
        with monkeypatch.context() as patch:
            patch.setattr(StageCache, "read", refuses)
            return whole_collect(run)

    whole_collect = publish.collect_scores
    monkeypatch.setattr(publish, "collect_scores", collect)
    assert drive_inline(run).exit_status == 2
    assert outcomes(run) == {"ann": "failed", "bob": "done"}
    assert (run.outcome_reports[ann.name].stage, run.outcome_reports[ann.name].reason) == ("score", "StoreError")
    monkeypatch.setattr(publish, "collect_scores", whole_collect)
    again = open_run(config, LogReporter())
    assert drive_inline(again).exit_status == 0 and not again.computed
    assert outcomes(again) == {"ann": "cached", "bob": "cached"}


def test_a_page_that_cannot_be_made_costs_itself_only(small, people, tmp_path, monkeypatch):  # noqa: F811
    run = open_run(small(str(tmp_path / "store"), people), LogReporter())
    ann = next(s for s in run.subjects.values() if s.identity_id == "ann")
    whole = pages._photo

    def gone(run, subject):
        if subject is ann:
            raise PhotoRejected("photo_missing", "There is no object at the given address.")
        return whole(run, subject)

    monkeypatch.setattr(pages, "_photo", gone)
    assert drive_inline(run).exit_status == 0
    assert set(outcomes(run).values()) == {"done"}
    paged = [s.identity_id for s in run.subjects.values() if any(run.store.list(f"{s.scope}/reports"))]
    assert paged == ["bob"]


def test_a_process_takes_over_its_own_lease_and_nobody_elses(folder_store):
    name = stage_lease(f"identities/{'ab' * 16}", "personalize", "cd" * 32)
    left = RunLease.try_take(folder_store, "a-run", name)
    left.lost = True  # as after a delete that failed: it stays, and is not renewed
    left.drop()
    assert RunLease.try_take(folder_store, "another-run", name) is None
    again = RunLease.try_take(folder_store, "a-run", name)
    assert again is not None
    again.drop()
    assert folder_store.head(name) is None


def test_a_look_without_the_lease_sets_nothing_aside(small, people, tmp_path):  # noqa: F811
    """Somebody else may be at the store: a damaged manifest is a miss for who only looks, and stays for who may mend."""
    config = small(str(tmp_path / "store"), people)
    run = open_run(config, LogReporter())
    assert drive_inline(run).exit_status == 0
    ann = next(s for s in run.subjects.values() if s.identity_id == "ann")
    (damaged,) = (tmp_path / "store" / ann.scope / "stages" / "mask").glob("*.json")
    damaged.chmod(0o644)
    damaged.write_bytes(b"torn")
    look = open_run(config, LogReporter(), dry_run=True)
    assert not lookup_stage(look, "detect") and not lookup_stage(look, "parse")
    assert [work.subject for work in lookup_stage(look, "mask")] == [ann.name]
    assert damaged.read_bytes() == b"torn"


def test_pictures_gone_again_end_one_persons_night_only(small, people, tmp_path, monkeypatch):  # noqa: F811
    """Her drawn pictures cannot be found when the outcome comes in: nothing of hers is scored, and bob goes on."""
    run = open_run(small(str(tmp_path / "store"), people), LogReporter())
    ann = next(s for s in run.subjects.values() if s.identity_id == "ann")
    monkeypatch.setattr(drive, "InlineExecutor", Overlapping)

    class Reset(StageCache):
        def lookup(self, call, **options):
            if call.stage == "generate" and self.scope == ann.scope:
                raise StoreError("connection reset")
            return super().lookup(call, **options)

    monkeypatch.setattr("faceid_core.run.state.StageCache", Reset)
    assert drive_inline(run).exit_status == 2
    assert outcomes(run) == {"ann": "failed", "bob": "done"}
    assert run.outcome_reports[ann.name].reason == "result_missing"
