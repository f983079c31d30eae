"""JSON lines: what each says of itself, and that a command writes nothing else to stderr."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import yaml

from faceid_core.log_lines import JsonFormatter, about

ROOT = Path(__file__).parents[2]
KEY, OTHER = "0123456789abcdef" * 2, "f" * 32


def line(message: str, *values, **extra) -> dict:
    logger = logging.getLogger("faceid_core.test")
    record = logger.makeRecord(logger.name, logging.WARNING, __file__, 1, message, values, None, extra=extra)
    formatter = JsonFormatter()
    formatter.run, formatter.stage = "20260101-nightly-00000000", "mask"
    text = formatter.format(record)
    assert "\n" not in text
    return json.loads(text)


def test_a_line_says_which_run_stage_and_person():
    found = line('%s: no checkpoint of stage %s:\n"disk"', KEY, "mask")
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "warning",
        "logger": "faceid_core.test",
        "message": f'{KEY}: no checkpoint of stage mask:\n"disk"',
        "run": "20260101-nightly-00000000",
        "stage": "mask",
        "identity_key": KEY,
    }
    assert line("done", **about("score-identity", KEY))["stage"] == "score-identity"
    assert line("done", **about("generate", "floor-person"))["subject"] == "floor-person"


def test_no_line_takes_a_digest_or_one_of_several_people_for_its_person():
    assert "identity_key" not in line("blob %s is damaged", KEY * 2)
    assert "identity_key" not in line("%s and %s have the same photo", KEY, OTHER)
    assert line("%s again: %s", KEY, KEY)["identity_key"] == KEY


def test_a_run_from_the_terminal_writes_json_to_stderr_and_its_progress_to_stdout(tmp_path):
    people = tmp_path / "people"
    people.mkdir()
    (people / "zoe-secret.png").write_bytes(b"this is not a picture")
    (people / "identities.csv").write_text("identity_id,photo,class_word\nzoe-secret,zoe-secret.png,person\n")
    grid = tmp_path / "grid.yaml"
    grid.write_text("name: one\nprompts: [{id: plain, text: a photo of V*, category: scene}]\n")
    config = tmp_path / "run.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "store": str(tmp_path / "store"),
                "identities": str(people / "identities.csv"),
                "generate": {"grid": str(grid), "seeds": 1, "steps": 1},
                "score": {"named_people": 0, "metrics": ["detection"]},
                "execution": {"executor": "inline", "threads_per_worker": 1},
                "log": {"format": "json"},
                "metrics": {"textfile": str(tmp_path / "faceid.prom")},
            }
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "flows", "run", "--config", str(config)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(each) for each in done.stderr.splitlines()]
    runs = {each["run"] for each in lines if "run" in each}
    assert len(runs) == 1 and f'run="{runs.pop()}"' in (tmp_path / "faceid.prom").read_text()
    (rejected,) = (each for each in lines if each["level"] == "warning")
    assert (
        rejected["level"] == "warning"
        and rejected["stage"] == "detect"
        and len(rejected["identity_key"]) == 32
    )
    assert {each["stage"] for each in lines if "cached" in each["message"]} >= {"detect", "generate", "score"}
    assert "ended with status 0" in lines[-1]["message"] and lines[-1]["stage"] == "publish"
    assert "zoe-secret" not in done.stderr, "a log names the key, never the id"
    assert "detect" in done.stdout and not done.stdout.startswith("{")


OF_PREFECT = """
import logging
import os
from faceid_core.log_lines import write_json_lines
write_json_lines()
import prefect.main  # sets the root logger up anew
from tasks.run_log import RunLogReporter
write_json_lines("20260101-nightly-00000000")
write_json_lines("20260101-nightly-00000000")
reporter = RunLogReporter(logging.getLogger("prefect.flow_runs"))
reporter.looked_up("mask", hits=1, misses=2)
logging.getLogger("faceid_core.x").info("ours")
logging.getLogger("urllib3").info("others' information stays out")
logging.getLogger("urllib3").warning("others' warning")
"""


def test_a_served_runs_log_in_prefect_is_json_too_and_each_line_comes_once():
    # Tests before this one may have left settings of Prefect, such as its levels.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    done = subprocess.run(
        [sys.executable, "-c", OF_PREFECT],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    lines = [json.loads(each) for each in done.stderr.splitlines()]
    # Prefect's other handler warns that no flow run is there, which is JSON as well.
    lines = [each for each in lines if each["logger"] != "py.warnings"]
    assert [each["message"] for each in lines] == ["mask: 1 cached, 2 to compute", "ours", "others' warning"]
    assert {each["run"] for each in lines} == {"20260101-nightly-00000000"} and lines[0]["stage"] == "mask"
