"""A worker's metrics at the real endpoint of a real Ray, beside Ray's own."""

from __future__ import annotations

import socket
import time
from urllib.request import urlopen

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.work import Source, Work
from faceid_core.store import S3Settings
from faceid_core.store.keys import StageCall
from tasks.pool import RayPool

# Ray's agent collects every ten seconds.
PATIENCE_SECONDS = 60


def samples(port: int) -> dict[str, list]:
    """Samples by name, as far as Ray shows any by now."""
    found: dict[str, list] = {}
    for family in text_string_to_metric_families(
        urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    ):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


@pytest.mark.timeout(180)
def test_rays_own_endpoint_shows_what_a_worker_did(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = WorkerSettings(
        store=str(tmp_path), s3=S3Settings(), precision="float32", device="cpu", faces_backend="miniature",
        scorers="miniature", slots=1, batch=1, threads=1,
    )  # fmt: skip
    pool = RayPool(settings, "test", workers=1, metrics_port=port)
    try:
        assert [node["MetricsExportPort"] for node in ray.nodes()] == [port]
        photo = Source("common", "photo", "0" * 64, "0" * 64)  # it is not in the store
        work = Work("ann", "common", StageCall("detect", 1, {}), {"photo": photo}, "detect")
        dones = []
        pool.execute([work], lambda *_: None, dones.append, lambda: False)
        assert [done.status for done in dones] == ["damaged"]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "ray_faceid_worker_results_total" not in (found := samples(port)):
            assert time.monotonic() < deadline, sorted(found)
            time.sleep(0.5)
    finally:
        pool.close()

    (result,) = found["ray_faceid_worker_results_total"]
    assert result.value == 1 and result.labels["WorkerId"] and "ann" not in result.labels.values()
    assert (result.labels["stage"], result.labels["status"]) == ("detect", "damaged")
    assert [each.value for each in found["ray_faceid_worker_busy"]] == [0]
    requests = {
        (each.labels["operation"], each.labels["outcome"]): each.value
        for each in found["ray_faceid_worker_store_requests_total"]
    }
    assert requests[("get", "absent")] == 1
    assert "ray_node_cpu_utilization" in found
