"""No library calls home: asked of the libraries themselves, in processes that begin as ours do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faceid_core.telemetry import SWITCHES

ASK = """
import json, {first}
from huggingface_hub import constants
from prefect._internal.analytics.enabled import is_telemetry_enabled
from prefect.settings import PREFECT_SERVER_ANALYTICS_ENABLED
from ray._common.usage.usage_lib import usage_stats_enabled
print(json.dumps({{
    "Prefect's client": is_telemetry_enabled(),
    "Prefect's server": PREFECT_SERVER_ANALYTICS_ENABLED.value(),
    "Ray": usage_stats_enabled(),
    "Hugging Face": not constants.HF_HUB_DISABLE_TELEMETRY,
}}))
"""
IN_CI = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "BUILDKITE", "TF_BUILD", "CIRCLECI", "TRAVIS")


# The command, what `serve` and workers start; Ray's actors.
@pytest.mark.parametrize("first", ["flows.cli", "tasks"])
def test_no_library_calls_home(first, tmp_path):
    hidden = {*SWITCHES, *IN_CI}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    printed = subprocess.run(
        [sys.executable, "-c", ASK.format(first=first)],
        env={**environment, "HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect")},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    calls = json.loads(printed.stdout.splitlines()[-1])
    assert not [library for library, does in calls.items() if does], calls


def test_a_choice_of_the_environment_is_left_as_it_is(monkeypatch):
    from faceid_core.telemetry import refuse_telemetry

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    refuse_telemetry()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1" and os.environ["DO_NOT_TRACK"] == "1"
