"""A run's metrics, scraped from its endpoint while it goes on, and read from its textfile and a push afterwards."""

from __future__ import annotations

import re
import stat
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from faceid_core.nightly import drive_inline
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.stages import STAGES
from faceid_core.store.requests import OPERATIONS
from tests.end_to_end.conftest import write_manifest
from tests.helpers.metric_names import OF_THE_DRIVER


def values(text: str) -> dict[str, dict[tuple, float]]:
    """Every sample by its name, and by its labels without the run's name."""
    found: dict[str, dict[tuple, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels["run_name"] == "small", sample
            labels = tuple(value for name, value in sorted(sample.labels.items()) if name != "run_name")
            assert labels not in found.setdefault(sample.name, {}), (
                "node_exporter refuses a series that comes twice"
            )
            found[sample.name][labels] = sample.value
    return found


class ScrapingReporter(LogReporter):
    """Scrapes the endpoint of its own run when the first identity is trained."""

    def __init__(self):
        super().__init__()
        self.notes, self.scraped = [], ""

    def note(self, text):
        self.notes.append(text)

    def settled(self, stage, done):
        if stage == "personalize" and not self.scraped:
            address = re.search(r"http://127\.0\.0\.1:\d+/metrics", "\n".join(self.notes)).group()
            self.scraped = urlopen(address, timeout=10).read().decode()


@pytest.fixture
def gateway():
    """What a Pushgateway would be sent: (path, body) of each request."""
    pushed = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self):
            pushed.append((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", pushed
    server.shutdown()
    server.server_close()


def execute(config, reporter=None):
    run = open_run(config, reporter or LogReporter())
    before = run.reporter
    ended = drive_inline(run)
    assert run.reporter is before
    return run, ended


def test_a_run_is_seen_while_it_goes_on_and_afterwards(small, people, tmp_path, gateway):
    address, pushed = gateway
    textfile = tmp_path / "faceid.prom"
    config = small(
        str(tmp_path / "store"), people,
        metrics={"port": 0, "textfile": str(textfile), "pushgateway": address},
    )  # fmt: skip
    reporter = ScrapingReporter()
    began = time.time()
    run, ended = execute(config, reporter)
    assert ended.exit_status == 0

    now = values(reporter.scraped)
    assert now["faceid_run_info"] == {(run.run_id,): 1}
    assert now["faceid_identities_requested"] == {(): 2} and not any(now["faceid_identities_total"].values())
    assert now["faceid_cache_lookups_total"][("miss", "detect")] >= 2
    assert (
        now["faceid_stage_seconds_count"][("mask",)] >= 2
        and now["faceid_stage_seconds_count"][("score",)] == 0
    )
    assert now["faceid_queue_length"][("personalize",)] == 1, "the second person waits"
    assert now["faceid_workers"] == {(): 1} and 0 <= now["faceid_worker_idle_ratio"][()] < 1
    assert "faceid_run_end_timestamp_seconds" not in now
    with pytest.raises(OSError):
        urlopen(re.search(r"http://\S+", "\n".join(reporter.notes)).group(), timeout=5)

    assert stat.S_IMODE(textfile.stat().st_mode) == 0o644, "node_exporter runs as another user"
    assert [path.name for path in tmp_path.glob("*faceid.prom*")] == ["faceid.prom"]
    end = values(textfile.read_text())
    assert end["faceid_identities_total"] == {
        (outcome,): 2.0 * (outcome == "done")
        for outcome in ("done", "cached", "rejected", "refused", "failed", "not_reached")
    }
    assert not any(end["faceid_queue_length"].values())
    series = {name for names in OF_THE_DRIVER.values() for name in names}
    assert {name for name in end if not name.endswith("_created")} == series, (
        "all that a dashboard may ask for"
    )
    assert end["faceid_run_exit_status"] == {(): 0}
    assert (
        began - 1
        <= end["faceid_run_start_timestamp_seconds"][()]
        <= end["faceid_run_end_timestamp_seconds"][()]
    )
    computed = sum(run.computed.values())
    assert sum(end["faceid_stage_seconds_count"].values()) == computed
    seconds = sum(report.seconds for report in run.outcome_reports.values())
    assert sum(end["faceid_stage_seconds_sum"].values()) >= seconds > 0
    assert end["faceid_store_requests_total"][("get", "ok")] > computed
    errors = {operation for operation, outcome in end["faceid_store_requests_total"] if outcome == "error"}
    assert errors == set(OPERATIONS), "there before the first error, which is then seen as one"
    assert time.time() - 300 < end["faceid_run_written_timestamp_seconds"][()] <= time.time()

    paths = {path for path, _ in pushed}
    assert paths == {"/metrics/job/small"}
    assert values(pushed[-1][1])["faceid_identities_total"] == end["faceid_identities_total"]
    shown = reporter.scraped + textfile.read_text() + pushed[-1][1]
    for report in run.outcome_reports.values():
        assert report.identity_key not in shown and report.identity_id not in shown

    again, _ = execute(config)
    cached = values(textfile.read_text())
    assert cached["faceid_identities_total"][("cached",)] == 2, "each run counts its own"
    assert cached["faceid_run_info"] == {(again.run_id,): 1}
    hits = {stage: cached["faceid_cache_lookups_total"][("hit", stage)] for stage in STAGES}
    assert all(count >= 2 for count in hits.values()), hits
    assert not any(
        count for (result, _), count in cached["faceid_cache_lookups_total"].items() if result == "miss"
    )


def test_metrics_that_cannot_be_offered_end_no_run(small, people_and_trouble, tmp_path):
    write_manifest(people_and_trouble.parent, [("text", "text.png")])
    taken = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    config = small(
        str(tmp_path / "store"), people_and_trouble,
        metrics={
            "port": taken.server_port,
            "textfile": str(tmp_path / "missing" / "faceid.prom"),
            "pushgateway": "http://127.0.0.1:9",
        },
    )  # fmt: skip
    reporter = ScrapingReporter()
    run, _ = execute(config, reporter)
    taken.server_close()
    assert [str(report.outcome) for report in run.outcome_reports.values()] == ["rejected"]
    for what in ("metrics.port", "missing/faceid.prom", "Pushgateway http://127.0.0.1:9"):
        assert sum(what in note for note in reporter.notes) == 1, (what, reporter.notes)
