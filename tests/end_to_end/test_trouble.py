"""Trouble in the middle of a run on a folder store: who watches, who breaks and who stops it leave an outcome report."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from faceid_core import nightly as drive_module
from faceid_core.errors import StoreError
from faceid_core.nightly import drive_inline
from faceid_core.publish import pages
from faceid_core.publish import publish as publish_module
from faceid_core.run.execute import execute_stage, put_photo
from faceid_core.run.lookup import lookup_stage
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.stages.executing import score
from faceid_core.store import StageCache, open_store
from faceid_core.store.layout import tombstone
from faceid_core.tables import Tables
from tests.end_to_end.conftest import write_manifest
from tests.end_to_end.test_inline_folder import outcomes
from tests.helpers.replaced import replace_everywhere


def status_of(run) -> dict:
    return json.loads(run.store.get(f"runs/{run.run_id}/status.json"))


def test_a_status_that_cannot_be_written_under_way_ends_no_night(small, people, tmp_path, monkeypatch):
    run = open_run(small(str(tmp_path / "store"), people), LogReporter())
    whole = drive_module.write_status

    def fails(run, state, **more):
        if state == "running":
            raise StoreError("the connection was reset")
        whole(run, state, **more)

    monkeypatch.setattr(drive_module, "write_status", fails)
    assert drive_inline(run).exit_status == 0
    assert outcomes(run) == {"ann": "done", "bob": "done"}
    assert status_of(run)["state"] == "complete"


def test_whoever_lost_a_result_on_the_way_fails_there_and_the_others_go_on(
    small, people, tmp_path, monkeypatch
):
    run = open_run(small(str(tmp_path / "store"), people), LogReporter())
    ann = next(s for s in run.subjects.values() if s.identity_id == "ann")

    def forgets_ann(run, stage, works, executor):
        dones = execute_stage(run, stage, works, executor)
        if stage == "parse":
            del ann.manifests["parse"]
        return dones

    replace_everywhere(monkeypatch, execute_stage, forgets_ann)
    assert drive_inline(run).exit_status == 2
    assert outcomes(run) == {"ann": "failed", "bob": "done"}
    outcome_report = run.outcome_reports[ann.name]
    assert (outcome_report.stage, outcome_report.reason) == ("parse", "no_outcome") and ann.name in outcome_report.message


def test_a_night_stopped_by_hand_is_in_the_tables_with_everybody(small, people, tmp_path, monkeypatch):
    config = small(str(tmp_path / "store"), people, personalize={"slots": 1})
    run = open_run(config, LogReporter())
    whole = score.execute

    def stopped(works, inputs, models, on_progress):
        if run.subjects[works[0].subject].identity_id == "bob":
            raise KeyboardInterrupt
        yield from whole(works, inputs, models, on_progress)

    monkeypatch.setattr(score, "execute", stopped)
    with pytest.raises(KeyboardInterrupt):
        drive_inline(run)
    status = status_of(run)
    assert status["state"] == "interrupted" and "KeyboardInterrupt" in status["error"]
    tables = Tables(run.store)
    rows = tables.query("select identity_id, outcome, reason from identity_outcomes order by all").to_pylist()
    assert rows == [
        {"identity_id": "ann", "outcome": "done", "reason": None},
        {"identity_id": "bob", "outcome": "not_reached", "reason": "interrupted"},
    ]
    assert tables.query("select run_id, exit_status, not_reached from runs").to_pylist() == [
        {"run_id": run.run_id, "exit_status": 2, "not_reached": 1}
    ]
    figures = tables.query("select identity_id from identity_summary where subject_kind = 'person'")
    assert figures.to_pylist() == [{"identity_id": "ann"}], "a finished identity has figures"


def test_a_night_told_to_terminate_ends_as_one_stopped_by_hand(small, people, tmp_path, monkeypatch, capsys):
    from flows.cli import main

    config = tmp_path / "night.yaml"
    config.write_text(small(str(tmp_path / "store"), people).model_dump_json())

    def terminated(works, inputs, models, on_progress):
        os.kill(os.getpid(), signal.SIGTERM)
        yield from ()

    monkeypatch.setattr(score, "execute", terminated)
    monkeypatch.setattr("sys.argv", ["faceid", "run", "--config", str(config)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130 and "goes on from there" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    rows = Tables(open_store(str(tmp_path / "store"))).query(
        "select distinct outcome, reason from identity_outcomes"
    )
    assert rows.to_pylist() == [{"outcome": "not_reached", "reason": "interrupted"}]


def test_a_bug_in_the_middle_of_a_night_is_in_the_tables(small, people, tmp_path, monkeypatch):
    run = open_run(small(str(tmp_path / "store"), people), LogReporter())

    def broken(self, stage, **_):
        raise ZeroDivisionError("a bug")

    replace_everywhere(monkeypatch, lookup_stage, broken)
    with pytest.raises(ZeroDivisionError):
        drive_inline(run)
    tables = Tables(run.store)
    assert tables.query("select exit_status, not_reached from runs").to_pylist() == [
        {"exit_status": 1, "not_reached": 2}
    ]
    outcomes_there = tables.query("select distinct outcome, message from identity_outcomes").to_pylist()
    assert outcomes_there == [{"outcome": "not_reached", "message": "ZeroDivisionError: a bug"}]


def test_a_page_drawn_while_its_person_is_erased_is_neither_kept_nor_linked(
    small, people, tmp_path, monkeypatch
):
    run = open_run(small(str(tmp_path / "store"), people), LogReporter())
    keys = {a.identity_id: a.identity_key for a in run.outcome_reports.values()}
    whole = pages._person

    def erased_meanwhile(run, subject, *rest):
        page = whole(run, subject, *rest)
        if subject.identity_id == "ann":
            run.store.put_if_absent(tombstone(subject.name), b"{}")
        return page

    monkeypatch.setattr(pages, "_person", erased_meanwhile)
    ended = drive_inline(run)
    index = run.store.get(ended.published.index).decode()
    assert not list(run.store.list(f"identities/{keys['ann']}/reports/"))
    assert f"identities/{keys['ann']}/reports/" not in index
    kinds = [info.name[-4:] for info in run.store.list(f"identities/{keys['bob']}/reports/")]
    assert sorted(kinds) == [".jpg", "html"], "the page, and the pictures of the gallery"
    assert f"identities/{keys['bob']}/reports/" in index


def detected(run, identity_key):
    """The share of the identity's images in which a face was found, by the table."""
    values = Tables(run.store).query(
        "select avg(value) from image_metrics where metric = 'detection' and generate_key = "
        f"'{run.outcome_reports[identity_key].stage_keys['generate']}'"
    )
    return values.column(0)[0].as_py()


def test_a_forced_rerun_with_another_result_shows_it_on_the_page_and_in_the_metrics(
    small, people, tmp_path, monkeypatch
):
    store = str(tmp_path / "store")
    first = open_run(small(store, people), LogReporter())
    drive_inline(first)
    ann = next(a.identity_key for a in first.outcome_reports.values() if a.identity_id == "ann")
    whole, seen = score.score, detected(first, ann)

    def otherwise(metric, *rest, **more):
        rows = whole(metric, *rest, **more)
        if metric != "detection":
            return rows
        return [replace(row, value=1.0 - row.value) for row in rows]

    monkeypatch.setattr(score, "score", otherwise)
    forced = {"only": ("ann",), "force": True, "from_stage": "score"}
    again = open_run(small(store, people, run=forced), LogReporter())
    index = drive_inline(again).published.index
    assert again.outcome_reports[ann].stage_keys == first.outcome_reports[ann].stage_keys

    reports = {info.name for info in again.store.list(f"identities/{ann}/reports/") if info.name.endswith(".html")}
    linked = [name for name in reports if name in again.store.get(index).decode()]
    assert len(reports) == 2 and len(linked) == 1
    assert detected(again, ann) == pytest.approx(1 - seen)


@pytest.mark.exhaustive
def test_a_page_that_was_collected_as_unused_is_written_again_when_its_results_are(small, people, tmp_path):
    store = str(tmp_path / "store")
    first = open_run(small(store, people), LogReporter())
    drive_inline(first)
    ann = next(a.identity_key for a in first.outcome_reports.values() if a.identity_id == "ann")
    for info in list(first.store.list(f"identities/{ann}/")):
        first.store.delete(info.name)
    again = open_run(small(store, people), LogReporter())
    index = again.store.get(drive_inline(again).published.index).decode()
    _, report = sorted((info.name for info in again.store.list(f"identities/{ann}/reports/")), key=len)
    assert report in index


def test_two_ids_with_one_photo_are_both_published(small, people, tmp_path):
    write_manifest(people.parent, [("ann", "ann.png"), ("twin", "ann.png"), ("bob", "bob.png")])
    store = str(tmp_path / "store")
    for expected in ("done", "cached"):
        run = open_run(small(store, people), LogReporter())
        assert drive_inline(run).exit_status == 0
        assert outcomes(run) == {"ann": expected, "twin": expected, "bob": expected}
    tables = Tables(run.store)
    figures = tables.query(
        f"select identity_id, identity_similarity from identity_summary where run_id = '{run.run_id}' "
        "and subject_kind = 'person' order by identity_id"
    ).to_pylist()
    assert [row["identity_id"] for row in figures] == ["ann", "bob", "twin"]
    assert figures[0]["identity_similarity"] == figures[2]["identity_similarity"]
    pictures = tables.query("select count(*) as n from images where subject_kind = 'person'").to_pylist()
    assert pictures == [{"n": 2 * 3 * 2}], "the pictures that two people share stand there once"


def test_whoever_is_erased_while_the_pages_are_written_is_in_no_table(small, people, tmp_path, monkeypatch):
    run = open_run(small(str(tmp_path / "store"), people), LogReporter())
    ann = next(a.identity_key for a in run.outcome_reports.values() if a.identity_id == "ann")
    whole = publish_module.write_pages

    def erased_meanwhile(run, *rest):
        index = whole(run, *rest)
        run.store.put_if_absent(tombstone(ann), b"{}")
        return index

    monkeypatch.setattr(publish_module, "write_pages", erased_meanwhile)
    drive_inline(run)
    assert outcomes(run) == {"ann": "refused", "bob": "done"}
    tables = Tables(run.store)
    for name, column in (("identity_summary", "identity_id"), ("identity_outcomes", "identity_id")):
        assert "ann" not in tables.read(name)[column].to_pylist()
    assert ann not in tables.read("images")["subject"].to_pylist()


def test_a_store_that_cannot_be_read_fails_nobody_and_one_persons_results_only_them(
    small, people, tmp_path, monkeypatch
):
    run = open_run(small(str(tmp_path / "store"), people), LogReporter())
    ann = next(s for s in run.subjects.values() if s.identity_id == "ann")
    whole, down = StageCache.lookup, {s.scope for s in run.subjects.values()}

    def lookup(self, call, **options):
        if self.scope in down:
            raise StoreError("the connection was reset")
        return whole(self, call, **options)

    monkeypatch.setattr(StageCache, "lookup", lookup)
    with pytest.raises(StoreError, match="reset"):
        lookup_stage(run, "detect")
    assert all(outcome_report.alive for outcome_report in run.outcome_reports.values()), "it may be tried again"
    down.intersection_update({ann.scope})
    assert len(lookup_stage(run, "detect")) > 0
    assert {a.identity_id: a.alive for a in run.outcome_reports.values()} == {"ann": False, "bob": True}
    run.release()


def test_an_unexpected_error_tells_no_photo_path(small, people, tmp_path, monkeypatch, caplog):
    run = open_run(small(str(tmp_path / "store"), people), LogReporter())

    def broken(run, subject):
        where = run.identities[subject.name].photo
        raise OSError(f"too many open files: {where!r}, {Path(where).name}")

    replace_everywhere(monkeypatch, put_photo, broken)
    drive_inline(run)
    told = {outcome_report.message for outcome_report in run.outcome_reports.values()}
    assert told == {"OSError: too many open files: '(a photo)', (a photo)"}
    assert "too many open files" in caplog.text and "ann.png" not in caplog.text
