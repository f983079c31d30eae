"""What a narrow terminal shows of a run: whole ids, bars that move within a stage, the time left, nothing said twice."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from rich.console import Console

from flows import console as console_module
from flows.cli import cli
from flows.console import ConsoleReporter, final_table
from tests.conftest import TEST_SECRET


def text_of(shown, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(shown)
    return console.file.getvalue()


def test_the_last_table_keeps_ids_whole_on_eighty_columns():
    figures = {"identity_similarity": 0.612, "concepts_obeyed": 0.9, "leakage": 0.25, "detection": 1.0}
    ids = [f"sample-{number}" for number in range(9001, 9009)]
    rows = [{"identity": each, "outcome": "done, weak", "seconds": 123.4, **figures} for each in ids]
    rows.append({"identity": "named people (ceiling)", "outcome": "rejected (several_faces)", "seconds": None})
    shown = text_of(final_table(rows))
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert [each for each in ids if each in shown] == ids and "named people (ceiling)" in shown
    assert shown.count("0.612") == len(ids) and "…" not in shown
    long = "a-rather-long-name-" * 4
    shown = text_of(final_table([{"identity": long, "outcome": "done", "seconds": 1.0, **figures}]))
    pieces = [line.strip("│┃ ").split(" ")[0] for line in shown.splitlines()]
    assert long in "".join(pieces), "it goes on in the next line, and nothing of it is lost"


@pytest.fixture
def reporter(monkeypatch):
    """A reporter of plain lines, which may print at once."""
    monkeypatch.setattr(console_module, "LINE_SECONDS", -1.0)
    return ConsoleReporter(Console(file=io.StringIO(), width=80))


def test_a_line_that_says_nothing_new_is_not_printed(reporter, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: clock[0])
    reporter.looked_up("generate", hits=0, misses=4)
    for done in (1, 1, 1, 2):
        clock[0] += 10.0
        reporter.progressed("0a1b2c3d4e5f", done, 4)
    lines = reporter.console.file.getvalue().splitlines()
    assert len(lines) == 3, "the lookup, and two lines of progress"
    # A sixteenth of the work took ten seconds, so the other fifteen take 150.
    assert lines[1].endswith("0 of 4 finished; 0a1b2c3d 1/4; about 2 min 30 s left")


def test_portraits_of_known_names_are_no_part_of_an_identitys_training(reporter, monkeypatch):
    """1,280 portraits are drawn once; as a share of one of 48 identities they foretold eleven hours."""
    clock = [1000.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: clock[0])
    reporter.looked_up("personalize", hits=0, misses=4)
    for done in (0, 32, 320):
        clock[0] += 10.0
        reporter.progressed("known-names", done, 1280)
    clock[0] += 10.0
    reporter.progressed("0a1b2c3d4e5f", 50, 100)
    lines = reporter.console.file.getvalue().splitlines()
    assert lines[3].endswith("draws known names, 320/1280; about 1 min 00 s left for them")
    # An eighth of the four identities took ten seconds, the portraits before not counted.
    assert lines[4].endswith("0 of 4 finished; 0a1b2c3d 50/100; about 1 min 10 s left")


def test_a_bar_moves_with_the_steps_inside_a_stage():
    with ConsoleReporter(Console(file=io.StringIO(), force_terminal=True, width=80)) as reporter:
        reporter.looked_up("personalize", hits=1, misses=2)
        (task,) = reporter._bars.tasks
        reporter.progressed("aa", 50, 200)
        reporter.progressed("bb", 100, 200)
        assert task.completed == pytest.approx(1.75) and task.fields["settled"] == 1
        work = SimpleNamespace(subject="aa", call=SimpleNamespace(stage="personalize"))
        reporter.settled("personalize", SimpleNamespace(status="done", work=work))
        assert task.completed == pytest.approx(2.5) and task.fields["settled"] == 2
        assert "2/3" in text_of(reporter._bars)


def test_a_person_who_is_scored_while_others_are_drawn_counts_once():
    with ConsoleReporter(Console(file=io.StringIO(), force_terminal=True, width=80)) as reporter:
        reporter.looked_up("generate", hits=0, misses=4)
        (task,) = reporter._bars.tasks
        for stage, steps in (("generate", 96), ("score-identity", 1), ("score-leakage", 1)):
            reporter.progressed("aa", steps, steps)
            work = SimpleNamespace(subject="aa", call=SimpleNamespace(stage=stage))
            reporter.settled(stage.partition("-")[0], SimpleNamespace(status="done", work=work))
        reporter.progressed("bb", 24, 96)
        assert task.completed == pytest.approx(1.25) and task.fields["settled"] == 1


def test_status_counts_reasons_and_keeps_keys_whole(folder_store, tmp_path):
    from faceid_core.store import IdentitySecret, initialize

    initialize(folder_store, IdentitySecret(bytes.fromhex(TEST_SECRET)))
    keys = [f"{number:032x}" for number in range(3)]
    people = [
        {"identity_key": key, "outcome": "rejected", "stage": "detect", "reason": "no_face", "seconds": 1.0,
         "message": "No face was found; send another photo."}
        for key in keys[:2]
    ]  # fmt: skip
    people.append(people[0] | {"identity_key": keys[2], "outcome": "not_reached", "stage": "run", "reason": "deadline",
                               "message": None})  # fmt: skip
    request = {"run_id": "20261124-nightly-1", "started_at": "2026-11-24T22:00:00+00:00"}
    status = {"state": "complete", "at": "now", "outcomes": {"rejected": 2, "not_reached": 1}, "people": people,
              "common_failures": {}}  # fmt: skip
    for name, record in (("request", request), ("status", status)):
        folder_store.put_if_absent(f"runs/20261124-nightly-1/{name}.json", json.dumps(record).encode())
    told = CliRunner().invoke(cli, ["status", "--store", str(tmp_path / "store")], env={"COLUMNS": "80"}).output
    assert told.count("send another photo") == 1
    assert "2 rejected, detect: no_face; No face was found; send another photo." in told
    assert "1 not reached, run: deadline" in told and all(key in told for key in keys)


def test_a_prompt_that_cannot_be_drawn_is_refused_before_any_library_is_loaded(tmp_path):
    script = (
        "import sys; from click.testing import CliRunner; from flows.cli import cli; "
        "told = CliRunner().invoke(cli, ['draw', '--identity', 'ann', '--prompt', 'a photo of V', '--store', 'none']); "
        "print(told.exception, sorted({'torch', 'diffusers'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60,
                           env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}, check=True)  # fmt: skip
    assert "has 0 times 'V*'" in ended.stdout and ended.stdout.strip().endswith("[]"), ended.stdout
