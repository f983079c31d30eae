"""A worker's metrics at the real endpoint of a real Ray, beside Ray's own, its log lines as JSON, and its spans."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
import ray
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client.parser import text_string_to_metric_families

from faceid_core.run import tracing
from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.work import Source, Work
from faceid_core.store import S3Settings, StageCache, open_store
from faceid_core.store.keys import StageCall
from tasks.pool import RayPool

# Ray's agent collects every ten seconds.
PATIENCE_SECONDS = 60
KEY = "5a" * 16


def samples(port: int) -> dict[str, list]:
    """Samples by name, as far as Ray shows any by now."""
    found: dict[str, list] = {}
    for family in text_string_to_metric_families(
        urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    ):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def spans(logs: Path) -> list[dict]:
    """What the console exporters of the workers printed by now."""
    printed = "".join(file.read_text() for file in logs.glob("worker-*.out"))
    return [json.loads(each) for each in re.findall(r"^\{$.*?^\}$", printed, re.M | re.S)]


@pytest.mark.timeout(180)
@pytest.mark.exhaustive
def test_rays_own_endpoint_shows_what_a_worker_did(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")  # of the workers, whose output is kept in a file
    monkeypatch.setattr(tracing, "_TRACER", TracerProvider().get_tracer("faceid"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = WorkerSettings(
        store=str(tmp_path), s3=S3Settings(), precision="float32", device="cpu", faces_backend="miniature",
        scorers="miniature", slots=1, batch=1, threads=1, log_format="json",
    )  # fmt: skip
    pool = RayPool(settings, "test", workers=1, metrics_port=port)
    try:
        assert [node["MetricsExportPort"] for node in ray.nodes()] == [port]
        photo = Source("common", "photo", "0" * 64, "0" * 64)  # it is not in the store
        works = [Work("ann", "common", StageCall("detect", 1, {}), {"photo": photo}, "detect")]
        digest = StageCache(open_store(str(tmp_path)), "common").put_blob(b"no picture")
        photo = Source("common", "photo", digest, digest)
        works.append(
            Work(KEY, "common", StageCall("parse", 1, {"no": "parameters"}), {"photo": photo}, "parse")
        )
        dones = []
        with tracing.span("stage parse") as stage:
            pool.execute(works, lambda *_: None, dones.append, lambda: False)
        assert {done.work.subject: done.status for done in dones} == {"ann": "damaged", KEY: "failed"}
        logs = Path(ray._private.worker._global_node.get_logs_dir_path())
        broken = [
            line
            for file in logs.glob("worker-*.err")
            for line in file.read_text().splitlines()
            if "broke" in line
        ]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "ray_faceid_worker_results_total" not in (found := samples(port)) or len(spans(logs)) < 3:
            assert time.monotonic() < deadline, (sorted(found), spans(logs))
            time.sleep(0.5)
        sent = spans(logs)
    finally:
        pool.close()

    results = found["ray_faceid_worker_results_total"]
    ended = {(each.labels["stage"], each.labels["status"]): each.value for each in results}
    assert ended == {("detect", "damaged"): 1, ("parse", "failed"): 2}, "each attempt counts"
    assert all(each.labels["WorkerId"] and not {"ann", KEY} & set(each.labels.values()) for each in results)
    assert len(broken) == 2
    line = json.loads(broken[0])
    assert line["run"] == "test" and line["stage"] == "parse" and line["level"] == "error"
    assert "Traceback" in line["error"]
    assert [each.value for each in found["ray_faceid_worker_busy"]] == [0]
    requests = {
        (each.labels["operation"], each.labels["outcome"]): each.value
        for each in found["ray_faceid_worker_store_requests_total"]
    }
    assert requests[("get", "absent")] == 1
    assert "ray_node_cpu_utilization" in found

    driver = stage.get_span_context()
    assert {span["context"]["trace_id"] for span in sent} == {f"0x{driver.trace_id:032x}"}
    assert {span["parent_id"] for span in sent} == {f"0x{driver.span_id:016x}"}
    outcomes = [(span["name"], span["attributes"]["faceid.outcome"]) for span in sent]
    assert sorted(outcomes) == [("detect", "damaged"), ("parse", "failed"), ("parse", "failed")], (
        "each attempt"
    )
