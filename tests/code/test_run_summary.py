"""The summary of a run: only what was measured, which identities are weak, and which share a photo."""

import os
from operator import attrgetter
from types import SimpleNamespace

from faceid_core.errors import NamesPeople
from faceid_core.outcomes import EXIT_CONFIGURATION, WEAK, Outcome, OutcomeReport
from faceid_core.publish.promotion import Verdict
from faceid_core.publish.run_summary import end_message, identity_rows, remarks, summary_line
from flows.cli import _report
from flows.display import is_logged

BY_ID, BY_KEY = attrgetter("identity_id"), attrgetter("identity_key")


def overall(normalized, gain, accuracy) -> dict:
    over = {"identity_fraction": {"mean": normalized}, "identity_gain": {"mean": gain}}
    relative = {"concepts_obeyed": accuracy}
    counts = {"people": 3, "people_with_gain": 2, "people_judged": 3}
    return {**counts, "over_people": over, "relative_to_class_word": relative}


def test_all_three_figures():
    assert summary_line(overall(0.414, 0.2, 0.956)) == (
        "normalized identity 41% (class word 0%, named people 100%); 2 of 3 surely above the class word; "
        "concept accuracy 96% of the class word's"
    )


def test_what_is_missing_is_left_out():
    assert summary_line(overall(None, 0.2, None)) == "2 of 3 surely above the class word"
    unjudged = overall(None, 0.2, None) | {"people_judged": 0}
    assert summary_line(unjudged) == "", "no one of none"
    assert summary_line(overall(0.0, None, None)).startswith("normalized identity 0%")
    assert summary_line(overall(None, None, None)) == summary_line({}) == ""


def people(*fates):
    """A run whose outcome reports are closed, from (id, photo, whether weak)."""
    photos = [photo for _, photo, _ in fates]
    outcome_reports, subjects = {}, {}
    for name, photo, weak in fates:
        outcome_report = OutcomeReport(name, f"key-{name}", Outcome.DONE, weak=weak, same_photo=photos.count(photo) - 1)
        outcome_reports[outcome_report.identity_key] = outcome_report
        subjects[outcome_report.identity_key] = SimpleNamespace(photo_digest=photo)
    return SimpleNamespace(outcome_reports=outcome_reports, subjects=subjects)


def test_weak_people_and_shared_photos_are_named():
    run = people(("ann", "1", True), ("bob", "2", False), ("cy", "2", None), ("dan", "3", False))
    told = remarks(run, lambda outcome_report: outcome_report.identity_id)
    assert told == [f"weak: ann: {WEAK}", "one and the same photo: bob = cy; check the manifest"]
    for words in ("another photo", "more steps", "lower learning rate", "personalize.preset"):
        assert words in WEAK
    assert remarks(people(("ann", "1", False), ("bob", "2", None)), str) == []
    many = remarks(
        people(*((f"p{number}", str(number), True) for number in range(30))), lambda a: a.identity_id
    )
    assert many == [f"weak: {', '.join(f'p{number}' for number in range(10))} and 20 more: {WEAK}"]
    published = SimpleNamespace(sentence="run r: 4 done", summary=[], overall={}, verdict=Verdict())
    assert end_message(run, published).startswith(
        f"run r: 4 done; weak: key-ann: {WEAK}; one and the same photo: key-bob"
    )
    assert [row["outcome"] for row in identity_rows(run, published, BY_ID)] == [
        "done, weak",
        "done",
        "done",
        "done",
    ]


def test_a_log_names_people_by_key(monkeypatch):
    run = people(("ann", "1", True))
    published = SimpleNamespace(sentence="run r: 1 done", summary=[], overall={}, verdict=Verdict())
    assert [row["identity"] for row in identity_rows(run, published, BY_KEY)] == ["key-ann"]
    assert not is_logged()
    monkeypatch.setenv("JOURNAL_STREAM", "9:12345")
    assert not is_logged(), "a terminal that a desktop's service started, whose output goes elsewhere"
    here = os.fstat(1)
    monkeypatch.setenv("JOURNAL_STREAM", f"{here.st_dev}:{here.st_ino}")
    assert is_logged()
    monkeypatch.delenv("JOURNAL_STREAM")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert is_logged(), "of a Ray job the standard output is a log that the dashboard shows"
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True))
    assert not is_logged(), "a terminal in a pod"


def test_an_error_in_a_log_names_no_one(monkeypatch, capsys):
    error = NamesPeople("run.only names ann", without_people="run.only names 1 identity id")
    assert _report(error) == EXIT_CONFIGURATION and "ann" in capsys.readouterr().err
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert _report(error) == EXIT_CONFIGURATION and capsys.readouterr().err == "error: run.only names 1 identity id\n"


def test_an_account_tells_what_is_to_be_done():
    assert OutcomeReport("a", "k", Outcome.DONE, weak=False, same_photo=0).sentence is None
    assert OutcomeReport("a", "k", Outcome.DONE, weak=True).sentence == WEAK
    both = OutcomeReport("a", "k", Outcome.DONE, weak=True, same_photo=2).sentence
    assert both == f"{WEAK}; 2 other identities of this run have the very same photo"
    failed = OutcomeReport("a", "k", Outcome.FAILED, message="no face", same_photo=1)
    assert failed.sentence == "no face"
