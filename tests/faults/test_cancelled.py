"""A run of `faceid serve` that is cancelled, as in the Prefect UI: its outcome reports are written, with their rows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from faceid_core.run.records import read_status
from faceid_core.store import open_store
from faceid_core.store.lease import running_runs
from faceid_core.tables import Tables
from tests.faults.test_prefect_server import Server
from tests.faults.test_ray_lost import LONG
from tests.helpers.waiting import within_time

pytestmark = pytest.mark.exhaustive
WAIT_SECONDS = 300


@pytest.fixture
def served(night_on, tmp_path):
    """`faceid serve` of a longer run, under a server of its own; gives configuration, client and log."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    config = night_on("cancelled", execution={"executor": "ray", "workers": 1}, **LONG)
    (tmp_path / "night.json").write_text(config.model_dump_json())
    (tmp_path / "prefect").mkdir()
    server = Server(tmp_path / "prefect")
    server.start()
    with (tmp_path / "log").open("ab") as log:
        serve = subprocess.Popen(
            [sys.executable, "-m", "flows", "serve", "--config", str(tmp_path / "night.json")],
            env={**os.environ, "PREFECT_API_URL": server.url, "PREFECT_HOME": str(tmp_path / "prefect")},
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
            yield config, client, tmp_path / "log"
    finally:
        os.killpg(serve.pid, signal.SIGKILL)
        serve.wait()
        server.kill()


def test_a_night_cancelled_from_the_ui_leaves_an_account_and_its_rows(served):
    from prefect.states import Cancelling

    config, client, log = served
    waiting = {"log": log, "seconds": WAIT_SECONDS}
    (nightly,) = within_time(
        lambda: [each for each in client.read_deployments() if each.name == "nightly"],
        "its deployment",
        **waiting,
    )
    run = client.create_flow_run_from_deployment(nightly.id)
    store = open_store(config.store)
    within_time(
        lambda: any("/checkpoints/" in info.name for info in store.list("identities/")),
        "a checkpoint",
        **waiting,
    )
    client.set_flow_run_state(run.id, Cancelling())
    within_time(lambda: client.read_flow_run(run.id).state.is_final(), "its end", log=log, seconds=90)
    assert client.read_flow_run(run.id).state.name == "Cancelled"
    (row,) = Tables(store).read("identity_outcomes").to_pylist()
    assert (row["outcome"], row["reason"]) in (("not_reached", "stopped"), ("not_reached", "interrupted"))
    (of_run,) = Tables(store).read("runs").to_pylist()
    assert read_status(store, of_run["run_id"])["state"] == "interrupted" and not running_runs(store)
