"""How a run's process is known again after `faceid serve` has ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from flows.crashed_runs import OWN_SERVER, RunProcess, RunProcesses, process_of_this_machine


def test_a_process_is_known_again_by_its_run_and_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run_id = "6f3c0f0e-1111-4222-8333-123456789abc"
    sleeper = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"]
    environment = {**os.environ, "PREFECT__FLOW_RUN_ID": run_id}
    child = subprocess.Popen(sleeper, env=environment, stdout=subprocess.PIPE)
    child.stdout.readline()
    here = process_of_this_machine(run_id, OWN_SERVER, child.pid)
    try:
        assert here.is_running() is True
        changed = {"run_id": run_id.replace("1111", "2222"), "boot": "another", "pid": 2**22 + 1}
        for name, value in changed.items():
            assert RunProcess(**{**vars(here), name: value}).is_running() is False, name
        for name in ("host", "namespace"):
            assert RunProcess(**{**vars(here), name: "another"}).is_running() is None, name
    finally:
        child.kill()
        child.wait()
    assert here.is_running() is False

    started = RunProcesses(OWN_SERVER)
    started.remember(run_id, child.pid)
    (folder,) = tmp_path.glob("state/faceid/*")
    (folder / "torn.json").write_text(json.dumps(vars(here))[:20])
    assert [record.run_id for record in started] == [run_id] and not list(RunProcesses("another"))
    started.forget(run_id)
    assert not list(started) and not list(folder.iterdir())
