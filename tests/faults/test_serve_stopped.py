"""The real `faceid serve` with its own server and a run under Ray: stopped and killed, then started again."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from faceid_core.store import open_store
from faceid_core.store.lease import running_runs
from faceid_core.tables import Tables

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(1800)]
WAIT_SECONDS = 300
LONG = {
    "personalize": {"preset": "semantic-fidelity", "method": {"steps": 400, "samples_per_step": 5}},
    "execution": {"executor": "ray", "workers": 1},
}


class Serve:
    """`faceid serve` of a configuration in a process of its own; its server's database outlives it."""

    def __init__(self, config, folder: Path, port: int):
        (folder / "night.json").write_text(config.model_dump_json())
        self._config_home = folder / "config"
        environment = {
            **os.environ,
            "PREFECT_HOME": str(folder / "prefect"),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CONFIG_HOME": str(self._config_home),
            "PYTHONUNBUFFERED": "1",
        }
        environment.pop("PREFECT_API_URL", None)
        self._api, self._log = f"http://127.0.0.1:{port}/api", folder / "log"
        began = len(self.told())
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows", "serve", "--config", str(folder / "night.json"), "--port", str(port)],
            env=environment, stdout=self._log.open("ab"), stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.wait_for(lambda: "start any of them" in self.told()[began:], "serving")
        self.said = self.told()[began:]
        self.deployments = dict(re.findall(r"^(\S+) +\S+/deployment/(\S+)$", self.said, re.MULTILINE))

    def told(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def wait_for(self, found, what: str):
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if answer := found():
                return answer
            assert self.process.poll() is None, self.told()[-3000:]
            time.sleep(0.1)
        raise AssertionError(f"{what} took too long: {self.told()[-3000:]}")

    def ask(self, path: str, body: dict | None = None) -> dict:
        string = (self._config_home / "faceid" / "prefect-auth").read_text().strip()
        request = urllib.request.Request(
            f"{self._api}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Basic {b64encode(string.encode()).decode()}",
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def start_night(self) -> str:
        number = self.deployments["nightly"]
        return self.ask(f"deployments/{number}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"]

    def places_taken(self) -> int:
        return self.ask(f"deployments/{self.deployments['nightly']}")["global_concurrency_limit"][
            "active_slots"
        ]

    def family(self) -> list[psutil.Process]:
        with suppress(psutil.Error):
            top = psutil.Process(self.process.pid)
            return [*top.children(recursive=True), top]
        return []


@pytest.mark.parametrize("way", ["terminated", "terminated by a service manager", "killed"])
def test_a_night_under_serve_ends_with_it_and_the_next_serve_knows(night_on, tmp_path, way):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = night_on(f"serve-{way.replace(' ', '-')}", **LONG)
    store, family = open_store(config.store), []
    try:
        serve = Serve(config, tmp_path, port)
        run = serve.start_night()
        serve.wait_for(
            lambda: any("/checkpoints/" in info.name for info in store.list("identities/")), "the training"
        )
        assert serve.ask(f"flow_runs/{run}")["state_type"] == "RUNNING" and serve.places_taken() == 1
        family, began = serve.family(), time.monotonic()
        if way == "terminated":
            serve.process.terminate()
        else:
            for process in family:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL if way == "killed" else signal.SIGTERM)
        status = serve.process.wait(WAIT_SECONDS)
        assert status == (-signal.SIGKILL if way == "killed" else 0), serve.told()[-3000:]
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive and time.monotonic() - began < 120
        assert not running_runs(store), "the store is free at once"
        if way != "killed":
            (row,) = Tables(store).read("identity_outcomes").to_pylist()
            assert row["outcome"] == "not_reached" and row["reason"] in ("stopped", "interrupted")

        again = Serve(config, tmp_path, port)
        family += again.family()
        found = again.ask(f"flow_runs/{run}")
        assert found["state_type"] == "CRASHED" and again.places_taken() == 0, again.told()[-3000:]
        assert ("without telling Prefect" in again.said) == (way == "killed") or way == "terminated by a service manager"
        again.process.terminate()
        assert again.process.wait(WAIT_SECONDS) == 0
    finally:
        for process in family:
            with suppress(psutil.Error):
                process.kill()
