"""Floor and ceiling are drawn while people are learned, where there is a worker for it, and nothing else changes."""

from __future__ import annotations

from types import SimpleNamespace

from faceid_core import nightly as drive
from faceid_core.errors import StoreError
from faceid_core.monitoring.metrics import RunMetrics
from faceid_core.nightly import drive_inline
from faceid_core.run.execute import _StageExecution
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.run.state import Run
from faceid_core.stages.work import Done, Work
from faceid_core.store import StageCache
from faceid_core.store.keys import StageCall
from tests.end_to_end.conftest import people, small  # noqa: F401 - fixtures
from tests.end_to_end.test_inline_folder import outcomes
from tests.helpers.overlapping import Overlapping


def run_night(config, monkeypatch, **options):
    monkeypatch.setattr(Overlapping, "calls", [])
    monkeypatch.setattr(drive, "InlineExecutor", Overlapping)
    run = open_run(config, LogReporter(), **options)
    return run, drive_inline(run), Overlapping.calls


def shards(run):
    return {
        name: subject.manifests["generate"].outputs["pictures.parquet"].digest
        for name, subject in run.subjects.items()
        if "generate" in subject.manifests
    }


def test_floor_and_ceiling_are_drawn_beside_the_training(small, people, tmp_path, monkeypatch, caplog):  # noqa: F811
    caplog.set_level("INFO", "faceid")
    usual = open_run(small(str(tmp_path / "usual"), people), LogReporter())
    assert drive_inline(usual).exit_status == 0
    run, ended, calls = run_night(small(str(tmp_path / "store"), people), monkeypatch)
    assert ended.exit_status == 0 and outcomes(run) == {"ann": "done", "bob": "done"}
    assert f"generate: {sum(bool(s.text) for s in run.subjects.values())} results" in caplog.text
    words = {subject.name for subject in run.subjects.values() if subject.text}
    learning = next(call for call in calls if call[0].startswith("personalize "))
    assert {each.split(" ", 1)[1] for each in learning if each.startswith("generate ")} == words
    assert learning[0].startswith("personalize ") and learning[-1].startswith("generate "), "people come first"
    drawing = [call for call in calls if call[0].startswith("generate ")]
    assert [len(call) for call in drawing] == [2], "the two people, once each"
    assert run.computed["generate"] == len(run.subjects), "no picture was drawn twice"
    assert run.computed == usual.computed
    assert sorted(shards(run).values()) == sorted(shards(usual).values())


def test_who_is_not_learned_in_time_keeps_nobody_from_floor_and_ceiling(small, people, tmp_path, monkeypatch):  # noqa: F811
    def has_masks(run):
        return all("mask" in each.manifests for each in run.subjects.values() if each.kind == "person")

    monkeypatch.setattr(Run, "past_finish_by", has_masks)
    run, ended, calls = run_night(small(str(tmp_path / "store"), people), monkeypatch)
    assert any({each.split()[0] for each in call} == {"personalize", "generate"} for call in calls)
    assert set(outcomes(run).values()) == {"not_reached"} and ended.exit_status == 2
    assert not run.failures_common and len(shards(run)) == sum(bool(s.text) for s in run.subjects.values())


def test_a_floor_that_cannot_be_looked_up_early_is_looked_up_again(small, people, tmp_path, monkeypatch):  # noqa: F811
    whole, asked = StageCache.lookup, []

    def lookup(self, call, **options):
        if call.stage == "generate" and call.parameters["text"] == "person" and not asked:
            asked.append(call.key)
            raise StoreError("connection reset")
        return whole(self, call, **options)

    monkeypatch.setattr(StageCache, "lookup", lookup)
    run, ended, _ = run_night(small(str(tmp_path / "store"), people), monkeypatch)
    assert asked and ended.exit_status == 0 and run.computed["generate"] == len(run.subjects)


def test_a_miss_that_ran_early_is_counted_as_one_and_a_wait_is_no_progress(small, people, tmp_path):  # noqa: F811
    run = open_run(small(str(tmp_path / "store"), people), LogReporter())
    run.reporter = metrics = RunMetrics(run)
    heard = []
    metrics._inner = SimpleNamespace(
        looked_up=lambda *_, **__: None, settled=lambda *_: None, progressed=lambda *about: heard.append(about)
    )
    word = next(subject.name for subject in run.subjects.values() if subject.text)
    done = Done(Work(word, "common", StageCall("generate", 2, {}), {}, "generate"), "done", seconds=1.0)
    metrics.settled("generate", done)
    metrics.looked_up("generate", hits=0, misses=2)
    metrics.settled("generate", done)
    found = metrics.registry.get_sample_value(
        "faceid_cache_lookups_total", {"run_name": run.config.name, "stage": "generate", "result": "miss"}
    )
    assert found == 3, "one before the stage, two at its lookup"
    stage = _StageExecution(run, "parse", Overlapping(None, "x", attempts=1))
    stage._on_progress("known-names", 0, 1)  # another worker makes the prior
    stage._on_progress("known-names", 32, 1280)
    assert heard == [("known-names", 32, 1280)]
