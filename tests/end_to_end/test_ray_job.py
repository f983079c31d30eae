"""A run whose driver is a job of the Ray cluster, as infra/kubernetes/ray-job.yaml starts it: the same results."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import yaml
from ray.cluster_utils import Cluster

from faceid_core.nightly import drive_inline
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.tables import Tables
from tests.helpers.waiting import within_time

JOB_SECONDS = 600


@pytest.fixture
def cluster(s3_server, tmp_path, monkeypatch):
    """A head that gives nothing away and takes jobs, and two nodes; they have the bucket's credentials from here."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))  # of the job's own Prefect server
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": True, "dashboard_port": 0},
    )
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_job_of_the_cluster_on_s3_equals_one_process_on_a_folder(
    small, people_and_trouble, tmp_path, s3_server, cluster
):
    inline = open_run(small(str(tmp_path / "store"), people_and_trouble), LogReporter())
    drive_inline(inline)

    config = small(
        f"s3://{s3_server.new_bucket()}/runs", people_and_trouble, executor="ray", execution={"workers": 0}
    )
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    said = _submit(cluster, f"{shlex.quote(sys.executable)} -m flows run --config {shlex.quote(str(file))}")

    # What the job left is all there is to do: a run in this process finds every result.
    here = config.model_copy(update={"execution": config.execution.model_copy(update={"executor": "inline"})})
    after = open_run(here, LogReporter())
    drive_inline(after)
    assert not after.computed, said[-2000:]
    assert {a.identity_id: str(a.outcome) for a in inline.outcome_reports.values()}.keys() == {
        a.identity_id for a in after.outcome_reports.values()
    }
    for subject in inline.subjects.values():
        for result, manifest in subject.manifests.items():
            assert after.subjects[subject.name].manifests[result].content == manifest.content, result

    runs = Tables(after.store).query("select executor, workers, exit_status from runs order by started_at")
    assert runs.to_pylist()[0] == {"executor": "ray", "workers": 2, "exit_status": 0}


def _submit(cluster: Cluster, command: str) -> str:
    """Run a command as a job of the cluster, as `ray job submit` does; what it printed."""
    address = within_time(lambda: cluster.head_node.webui_url, "the dashboard's start")
    program = str(Path(sys.executable).parent / "ray")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [program, "job", "submit", "--address", f"http://{address}", "--", *shlex.split(command)],
        capture_output=True, text=True, timeout=JOB_SECONDS, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert not ray.is_initialized()
    return done.stdout
