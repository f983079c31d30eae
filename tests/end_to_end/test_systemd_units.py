"""The commands of the units, started and stopped as systemd does, with a real Prefect server."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.helpers.units import UNITS, settings_of
from tests.helpers.waiting import within_time

ROOT = Path(__file__).parents[2]
START_SECONDS = 240
READY = {"faceid-serve": "start any of them", "faceid-worker": "started!"}
MODULES = {"/opt/faceid/bin/faceid": "flows", "/opt/faceid/bin/prefect": "prefect"}


def environment_of(service: dict[str, list[str]], home: Path, api: str) -> dict[str, str]:
    """What the unit's process would see: nothing of this one's but the path, and the files that the unit names."""
    found = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "HOME": str(home)}
    if "/etc/faceid/prefect.env" in service["EnvironmentFile"]:
        lines = (ROOT / "infra" / "prefect" / "client.env").read_text().splitlines()
        found |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return found | {"PREFECT_API_URL": api, "FACEID_IDENTITY_SECRET": "ab" * 32}


@pytest.mark.exhaustive
def test_a_worker_that_is_stopped_lets_its_run_end_first(prefect_server, tmp_path):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.settings import PREFECT_API_URL

    from tests.helpers.slow_flow import slow

    (unit,) = [each for each in UNITS if "worker" in each.stem]
    service, folder = settings_of(unit)["Service"], tmp_path / "run"
    folder.mkdir()
    environment = environment_of(service, tmp_path, str(PREFECT_API_URL.value()))
    with get_client(sync_client=True) as client:
        if "faceid" not in [pool.name for pool in client.read_work_pools()]:
            client.create_work_pool(WorkPoolCreate(name="faceid", type="process"))
        deployment = client.create_deployment(
            client.create_flow(slow), "slow", entrypoint="tests.helpers.slow_flow.slow", work_pool_name="faceid",
            parameter_openapi_schema={}, enforce_parameter_schema=False,
        )  # fmt: skip
        words = shlex.split(service["ExecStart"][0])[1:]
        log = tmp_path / "log"
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", *words], env=environment, cwd=tmp_path, stdout=log.open("wb"),
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            run = client.create_flow_run_from_deployment(deployment, parameters={"folder": str(folder)})
            within_time((folder / "began").exists, "the run's beginning")
            # systemd runs ExecStop, and sends the signal when it has ended.
            known = {"/opt/faceid/bin/python": sys.executable, "$MAINPID": str(worker.pid)}
            stop = [known.get(each, each) for each in shlex.split(service["ExecStop"][0])]
            subprocess.run(stop, check=True, timeout=int(service["TimeoutStopSec"][0]), env=environment)
            worker.send_signal(signal.SIGTERM)
            worker.wait(int(service["TimeoutStopSec"][0]))
            assert (folder / "outcome report").exists(), log.read_text(errors="replace")[-2000:]
            assert client.read_flow_run(run.id).state.is_crashed()
        finally:
            for each in [*psutil.Process(worker.pid).children(recursive=True)] if worker.poll() is None else []:
                each.kill()
            with suppress(ProcessLookupError):
                worker.kill()


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_it_starts_and_ends_in_time_and_leaves_nothing_behind(unit, prefect_server, tmp_path):
    from prefect.settings import PREFECT_API_URL

    service = settings_of(unit)["Service"]
    (tmp_path / "run.yaml").write_text(f"store: {tmp_path}/store\n")
    program, *rest = shlex.split(service["ExecStart"][0])
    words = [str(tmp_path / "run.yaml") if word == "/etc/faceid/run.yaml" else word for word in rest]
    log = tmp_path / "log"
    process = subprocess.Popen(
        [sys.executable, "-m", MODULES[program], *words],
        env=environment_of(service, tmp_path, str(PREFECT_API_URL.value())),
        cwd=tmp_path,
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + START_SECONDS
        while READY[unit.stem] not in log.read_text(errors="replace"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")[
                -2000:
            ]
            time.sleep(0.2)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(
            getattr(signal, service["KillSignal"][0])
        )  # KillMode=mixed: to this process alone
        status = process.wait(int(service["TimeoutStopSec"][0]))
        # systemd takes an end by the signal that it sent for a clean one.
        assert status in (0, -signal.SIGTERM, 128 + signal.SIGTERM), log.read_text(errors="replace")[-2000:]
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive
    finally:
        for each in [*family, process]:
            with suppress(psutil.Error, ProcessLookupError):
                each.kill()
