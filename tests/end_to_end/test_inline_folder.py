"""A whole run in one process on a folder store: outcomes, cache, tables, report, rejections."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor

import duckdb
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from faceid_core.errors import ConfigurationError, StoreError
from faceid_core.miniature.people import person_from_seed
from faceid_core.miniature.renderer import render
from faceid_core.nightly import drive_inline
from faceid_core.outcomes import Outcome
from faceid_core.run.executor import InlineExecutor
from faceid_core.run.lookup import lookup_stage
from faceid_core.run.open import open_run
from faceid_core.run.records import read_pages, run_ids
from faceid_core.run.reporter import LogReporter
from faceid_core.store import StoreBusy
from faceid_core.store.layout import tombstone
from faceid_core.tables import Tables
from tests.end_to_end.conftest import shot, write_manifest, write_photo


def execute(config):
    run = open_run(config, LogReporter())
    return run, drive_inline(run)


def outcomes(run) -> dict[str, str]:
    return {outcome_report.identity_id: str(outcome_report.outcome) for outcome_report in run.outcome_reports.values()}


def test_a_night_then_the_same_again_then_one_photo_changed(small, people, tmp_path):
    config = small(str(tmp_path / "store"), people)
    first, ended = execute(config)
    assert ended.exit_status == 0
    assert outcomes(first) == {"ann": "done", "bob": "done"}
    made = [m for subject in first.subjects.values() for m in subject.manifests.values()]
    assert {m.provenance["device"] for m in made if m.stage in ("detect", "score-identity")} == {"cpu"}
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    assert {m.provenance["device"] for m in made if m.stage in ("personalize", "generate")} == {usual}

    second, ended = execute(config)
    assert outcomes(second) == {"ann": "cached", "bob": "cached"}
    assert not second.computed, "a second run computes nothing"
    assert "nothing was recomputed" in ended.published.sentence

    write_photo(people.parent, "bob.png", render(person_from_seed(8105), shot(), size=128).image)
    third, last = execute(config)
    assert outcomes(third) == {"ann": "cached", "bob": "done"}
    assert third.computed["personalize"] == 1 and third.computed["generate"] == 1

    tables = Tables(first.store)
    summary = tables.query(
        "select * from identity_summary where subject_kind = 'person' order by run_id"
    ).to_pandas()
    assert len(summary) == 6, "three runs of two people"
    assert summary.detection.between(0, 1).all() and summary.concept_accuracy.between(0, 1).all()
    pictures = tables.query("select generate_key, count(*) n from images group by 1").to_pandas()
    assert (pictures.n == 6).all(), "three prompts with two seeds each, once ever"
    exported = tables.export(tmp_path / "export")
    outcome_file = next(path for path in exported if path.stem == "identity_outcomes")
    assert sorted(pd.read_parquet(outcome_file).outcome) == [
        "cached",
        "cached",
        "cached",
        "done",
        "done",
        "done",
    ]
    counted = duckdb.sql(f"select count(*) from '{outcome_file}'").fetchall()
    assert counted == [(6,)]

    index = first.store.get(ended.published.index)
    assert b"data:image/png" not in index and b"data:image/jpeg" not in index, "the index shows no face"
    told_beside_the_last_run(second, third, last.published)


def told_beside_the_last_run(before, run, published):
    """The pages of a run in which one photo was exchanged, and which run is current."""
    bob = next(key for key, report in run.outcome_reports.items() if report.identity_id == "bob")
    verdict = published.verdict
    assert verdict.against_last.first == before.run_id
    assert [(each.identity_key, each.kind) for each in verdict.changes] == [(bob, "photo")]
    assert verdict.sentence == f"current: {run.run_id}, in place of {before.run_id}"
    index = run.store.get(published.index).decode()
    assert "another photo" in index and 'href="comparison.html"' in index and 'href="gallery.html"' in index
    assert before.run_id in run.store.get(f"runs/{run.run_id}/comparison.html").decode()
    pages = read_pages(run.store, run.run_id)
    gallery = run.store.get(f"runs/{run.run_id}/gallery.html").decode()
    for page in pages.values():
        strip = page.replace(".html", ".jpg")
        assert f'src="../../{strip}"' in gallery and run.store.get(strip)[:2] == b"\xff\xd8"
    of_bob = run.store.get(pages[bob]).decode()
    assert f'alt="run {before.run_id}, seed 0"' in of_bob and 'alt="class word “person”, seed 1"' in of_bob
    assert "How to reproduce" in of_bob and "bob" not in of_bob


def test_a_floor_for_every_person_and_every_metric_that_needs_the_photo(small, people, tmp_path):
    config = small(str(tmp_path / "store"), people, score={"metrics": ["identity", "detection"]})
    first, _ = execute(config)
    added = small(str(tmp_path / "store"), people)
    second, _ = execute(added)
    assert not {"generate", "score-identity", "score-detection"} & set(second.computed)
    assert second.computed["score-leakage"] == 5, "two people, their floors, one named person"
    word = second.plan.floors["person"].stage_key
    found = (
        Tables(second.store)
        .query(
            f"""
        select s.leakage_floor, f.mean, f.pictures from identity_summary s
        join identity_outcomes o using (run_id, identity_key)
        join (
            select score_key, avg(value) mean, count(*) pictures from image_metrics
            where metric = 'leakage' and generate_key = '{word}' group by score_key
        ) f on f.score_key in (select stage_key from stage_results r where r.run_id = o.run_id
          and r.identity_key = o.identity_key and r.stage = 'floor_score-leakage')
        where s.run_id = '{second.run_id}'
        """
        )
        .to_pandas()
    )
    assert len(found) == 2 and (found.pictures == 6).all()
    assert (found.leakage_floor - found["mean"]).abs().max() < 1e-6
    assert [first.subjects[key].manifests["floor_score-identity"] for key in first.outcome_reports] == [
        second.subjects[key].manifests["floor_score-identity"] for key in second.outcome_reports
    ]


def test_bad_photos_are_rejected_with_reasons_and_stop_nobody(small, people_and_trouble, tmp_path):
    config = small(str(tmp_path / "store"), people_and_trouble)
    run, ended = execute(config)
    assert ended.exit_status == 0, "rejections are not failures"
    reasons = {a.identity_id: a.reason for a in run.outcome_reports.values()}
    assert reasons == {
        "ann": None,
        "bob": None,
        "empty": "no_face",
        "two": "several_faces",
        "text": "not_an_image",
        "torn": "truncated",
        "gone": "photo_missing",
    }
    assert outcomes(run)["ann"] == outcomes(run)["bob"] == "done"
    again, _ = execute(config)
    assert not again.computed, "a rejection is cached as any result is"
    assert {a.identity_id: a.reason for a in again.outcome_reports.values()} == reasons
    rows = Tables(run.store).query("select distinct outcome from identity_outcomes").to_pandas()
    assert set(rows.outcome) == {"done", "cached", "rejected"}


def test_a_changed_grid_draws_only_what_is_new(small, people, tmp_path):
    config = small(str(tmp_path / "store"), people)
    execute(config)
    more = small(str(tmp_path / "store"), people, generate={"seeds": 3})
    run, _ = execute(more)
    ann = next(s for s in run.subjects.values() if s.identity_id == "ann")
    drawn = ann.manifests["generate"].provenance
    assert (drawn["pictures_kept"], drawn["pictures_drawn"]) == (6, 3)
    assert run.computed["personalize"] == 0


def test_wide_pictures_are_drawn_measured_and_shown_and_the_people_are_not_learned_again(small, people, tmp_path):
    store = str(tmp_path / "store")
    usual, _ = execute(small(store, people))
    own = {"height": 64, "width": 64}
    same, _ = execute(small(store, people, generate=own))
    assert not same.computed.get("generate", 0), "the base model's own size, said in numbers, is the default"
    wide, ended = execute(small(store, people, generate={"width": 96}))
    assert ended.exit_status == 0 and not wide.computed.get("personalize", 0)
    assert wide.computed["generate"] == usual.computed["generate"]
    images = Tables(wide.store).query("select width, height, count(*) n from images group by all order by width")
    each = len(usual.subjects) * 6
    assert images.to_pylist() == [
        {"width": 64, "height": 64, "n": each},
        {"width": 96, "height": 64, "n": each},
    ]
    measured = (
        "select metric, avg(value) as mean from image_metrics join images using (generate_key) "
        "where width = 96 and value is not null group by metric"
    )
    means = {row["metric"]: row["mean"] for row in Tables(wide.store).query(measured).to_pylist()}
    assert {"attention", "identity", "leakage"} <= set(means) and means["detection"] > 0.5
    assert 'width="96" height="64"' in wide.store.get(sorted(read_pages(wide.store, wide.run_id).values())[0]).decode()


def test_force_from_a_stage_and_only_one_person(small, people, tmp_path):
    store = str(tmp_path / "store")
    execute(small(store, people))
    run, _ = execute(small(store, people, run={"only": ("ann",), "force": True, "from_stage": "generate"}))
    assert list(outcomes(run)) == ["ann"]
    request = json.loads(run.store.get(f"runs/{run.run_id}/request.json"))
    assert request["config"]["run"]["only"] == list(run.outcome_reports), "a key, not the id"
    assert run.computed["personalize"] == 0 and run.computed["generate"] == 1
    ann = next(s for s in run.subjects.values() if s.identity_id == "ann")
    assert ann.manifests["generate"].provenance["pictures_drawn"] == 6, (
        "forced pictures are drawn, not copied"
    )
    with pytest.raises(ConfigurationError, match="zoe"):
        open_run(small(store, people, run={"only": ("zoe",)}), LogReporter())


def test_finish_by_admits_nobody_new_but_finishes_whoever_has_tokens(small, people, tmp_path):
    store = str(tmp_path / "store")
    long_ago = dt.datetime(2026, 11, 1, 20, tzinfo=dt.UTC)
    late = {"run": {"finish_by": "21:00"}}
    run = open_run(small(store, people, **late), LogReporter(), scheduled=long_ago)
    ended = drive_inline(run)
    assert set(outcomes(run).values()) == {str(Outcome.NOT_REACHED)} and ended.exit_status == 2
    assert {outcome_report.attempts for outcome_report in run.outcome_reports.values()} == {0}, "nothing was tried"
    status = json.loads(run.store.get(f"runs/{run.run_id}/status.json"))
    assert status["state"] == "complete" and status["outcomes"]["not_reached"] == 2

    execute(small(store, people))
    for shard in (tmp_path / "store").glob("identities/*/stages/generate/*.json"):
        shard.unlink()
    run = open_run(small(store, people, **late), LogReporter(), scheduled=long_ago)
    assert drive_inline(run).exit_status == 0
    assert outcomes(run) == {"ann": "done", "bob": "done"}


def test_a_person_erased_during_the_run_is_refused_and_the_others_go_on(small, people, tmp_path):
    run = open_run(small(str(tmp_path / "store"), people), LogReporter())
    ann = next(s for s in run.subjects.values() if s.identity_id == "ann")
    run.store.put_if_absent(tombstone(ann.name), b"{}")
    ended = drive_inline(run)
    assert ended.exit_status == 0 and outcomes(run) == {"ann": "refused", "bob": "done"}
    listed = Tables(run.store).query("select identity_id from identity_outcomes order by outcome").to_pylist()
    assert listed == [{"identity_id": "bob"}, {"identity_id": ann.name}], "an erased id does not come back"


def test_a_store_that_breaks_in_the_middle_leaves_a_complete_account(small, people, tmp_path, monkeypatch):
    run = open_run(small(str(tmp_path / "store"), people), LogReporter())
    whole = InlineExecutor.execute

    def breaks(self, works, on_progress, on_done, stop, **options):
        if works[0].call.stage == "generate":
            raise StoreError("the disk is full")
        whole(self, works, on_progress, on_done, stop, **options)

    monkeypatch.setattr(InlineExecutor, "execute", breaks)
    ended = drive_inline(run)
    assert ended.exit_status == 2 and set(outcomes(run).values()) == {"failed"}
    assert {a.message for a in run.outcome_reports.values()} == {"StoreError: the disk is full"}
    assert any("disk is full" in message for message in run.failures_common.values())


def test_a_busy_store_refuses_the_second_night_and_keeps_no_record_of_it(small, people, tmp_path):
    config = small(str(tmp_path / "store"), people)
    running = open_run(config, LogReporter())
    with pytest.raises(StoreBusy, match=running.run_id):
        open_run(config, LogReporter())
    assert run_ids(running.store) == [running.run_id], "faceid status goes on showing the one that runs"
    open_run(config, LogReporter(), dry_run=True)
    assert drive_inline(running).exit_status == 0
    after = open_run(config, LogReporter())
    after.release()
    after.release()
    assert len(run_ids(after.store)) == 2, "the lease was given back at the end"


def test_a_night_that_waits_its_turn_looks_at_people_only_then(small, people, tmp_path):
    config = small(str(tmp_path / "store"), people, run={"on_busy": "wait"})
    running = open_run(config, LogReporter())
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(open_run, config, LogReporter())
        time.sleep(0.5)
        assert not waiting.done()
        write_photo(people.parent, "bob.png", render(person_from_seed(8105), shot(), size=128).image)
        write_manifest(people.parent, [("bob", "bob.png")])
        running.release()
        run = waiting.result(timeout=30)
    run.release()
    assert list(outcomes(run)) == ["bob"]
    digest = hashlib.sha256((people.parent / "bob.png").read_bytes()).hexdigest()
    assert next(iter(run.subjects.values())).photo_digest == digest


def test_a_refused_night_ends_with_status_3_on_the_command_line(small, people, tmp_path, monkeypatch, capsys):
    from flows.cli import main

    running = open_run(small(str(tmp_path / "store"), people), LogReporter())
    arguments = ["--store", str(tmp_path / "store"), "--identities", str(people), "--executor", "inline"]
    monkeypatch.setattr("sys.argv", ["faceid", "run", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    running.release()
    assert ended.value.code == 3 and running.run_id in capsys.readouterr().err


def test_a_dry_run_leaves_an_empty_store_empty(small, people, tmp_path):
    run = open_run(small(str(tmp_path / "store"), people), LogReporter(), dry_run=True)
    assert len(lookup_stage(run, "detect")) == 3
    assert not (tmp_path / "store").exists() or not any((tmp_path / "store").rglob("*.json"))


def test_an_expired_consent_is_refused(small, people, tmp_path):
    people.write_text(
        "identity_id,photo,class_word,consent_until\nann,ann.png,person,2020-01-31\nbob,bob.png,person,2999-01-01\n"
    )
    run, _ = execute(small(str(tmp_path / "store"), people))
    assert outcomes(run) == {"ann": "refused", "bob": "done"}


def test_another_secret_is_refused_before_any_work(small, people, tmp_path, monkeypatch):
    config = small(str(tmp_path / "store"), people)
    open_run(config, LogReporter())
    monkeypatch.setenv("FACEID_IDENTITY_SECRET", "77" * 32)
    with pytest.raises(ConfigurationError, match="secret"):
        open_run(config, LogReporter())


def test_status_query_key_and_draw_from_the_command_line(small, people, tmp_path):
    from flows.cli import cli

    store = str(tmp_path / "store")
    run, _ = execute(small(store, people))
    runner = CliRunner()
    key = runner.invoke(cli, ["key", "ann", "--store", store]).output.strip()
    assert key in run.outcome_reports
    told = runner.invoke(cli, ["status", "--store", store])
    assert told.exit_code == 0 and run.run_id in told.output and "2 done" in told.output
    asked = runner.invoke(
        cli, ["query", "select count(*) as n from images", "--store", store, "--format", "json"]
    )
    assert json.loads(asked.output) == [{"n": 24}], (
        "two people, class word and one named person, six pictures each"
    )
    picture = tmp_path / "ann.png"
    drawn = runner.invoke(
        cli,
        ["draw", "--identity", "ann", "--prompt", "a photo of V* in the snow", "--seeds", "2",
         "--set", "generate.steps=2", "--store", store, "--out", str(picture)],
    )  # fmt: skip
    assert drawn.exit_code == 0, drawn.output
    assert picture.read_bytes().startswith(b"\x89PNG") and b"trainedAlgorithmicMedia" in picture.read_bytes()
