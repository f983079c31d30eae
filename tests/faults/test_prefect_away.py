"""A Prefect server that is away, mistyped or another's, found in seconds and before anything is opened."""

from __future__ import annotations

import http.server
import json
import os
import socket
import threading
from types import SimpleNamespace

import botocore.utils
import httpx
import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from faceid_core.errors import ConfigurationError
from faceid_core.nightly import RUNS
from faceid_core.run.records import read_status, run_ids
from faceid_core.run.reporter import LogReporter
from faceid_core.store import open_store
from faceid_core.store.lease import running_runs
from flows import nightly, prefect_health
from flows.local_network import exempt_loopback_from_proxy
from flows.prefect_health import why_out_of_reach
from tests.helpers.pretend_night import pretend_config, write_manifest


@pytest.fixture
def answering():
    """Point Prefect's client at a service that answers each path as told: path -> (status, body)."""
    answers, asked = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            status, body = answers.get(self.path, answers.get("", (404, "nothing here")))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/api"
    with temporary_settings({PREFECT_API_URL: url}):
        yield SimpleNamespace(answers=answers, asked=asked, url=url)
    server.shutdown()


GOOD = {"/api/health": (200, "true"), "/api/admin/version": (200, json.dumps("3.8.8"))}


def test_a_server_that_is_well_is_in_reach(answering):
    answering.answers |= GOOD
    with temporary_settings({PREFECT_API_AUTH_STRING: "admin:pass"}):
        assert why_out_of_reach() == ""
    assert all(credentials.startswith("Basic ") for _, credentials in answering.asked)


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"": (200, "<html>a console</html>")}, "PREFECT_API_URL.*is no Prefect API"),
        ({"": (404, "{}")}, "PREFECT_API_URL.*is no Prefect API.*ends in /api"),
        ({"": (200, "{}")}, "PREFECT_API_URL.*is no Prefect API"),
        (GOOD | {"/api/admin/version": (401, "{}")}, "PREFECT_API_AUTH_STRING"),
        ({"": (302, "")}, "PREFECT_API_URL.*is no Prefect API"),
    ],
)
def test_what_waiting_does_not_change_is_refused_by_the_settings_name(answering, answers, says):
    answering.answers |= answers
    with pytest.raises(ConfigurationError, match=says):
        why_out_of_reach()


def test_a_server_that_fails_is_out_of_reach_and_one_that_comes_back_is_not(answering, monkeypatch):
    slept = []

    def sleep(_):  # Prefect's client does, too
        slept.append(True)
        if len(slept) > 3:
            answering.answers.update(GOOD)

    monkeypatch.setattr(prefect_health.time, "sleep", sleep)
    answering.answers[""] = (503, "")
    assert "status 503" in why_out_of_reach(patience=0.0)
    assert why_out_of_reach() == "", "it was just being restarted"


@pytest.mark.parametrize(
    "url", ["localhost:4200/api", "127.0.0.1:4200", "htp://host/api", "http://", "http://host:port/api"]
)
def test_what_is_no_address_is_refused_before_anything_is_opened(url, tmp_path):
    config = pretend_config(
        str(tmp_path / "store"), write_manifest(tmp_path / "people", 1), execution={"executor": "inline"}
    )
    with (
        temporary_settings({PREFECT_API_URL: url}),
        pytest.raises(ConfigurationError, match=r"PREFECT_API_URL.*no address"),
    ):
        nightly.run_with_prefect(config, LogReporter())
    assert not (tmp_path / "store").exists()


class Noted(LogReporter):
    def __init__(self):
        super().__init__()
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.mark.parametrize("away", ["before the run", "as the flow starts"])
def test_a_run_goes_on_without_prefect_where_no_server_answers(tmp_path, monkeypatch, away):
    config = pretend_config(
        str(tmp_path / "store"), write_manifest(tmp_path / "people", 1), execution={"executor": "inline"}
    )
    driven, reporter = [], Noted()
    monkeypatch.setattr(prefect_health, "_without_prefect", [])
    monkeypatch.setattr(nightly, "drive_directly", lambda context: driven.append(context.run) or "finished")
    monkeypatch.setattr(nightly, "why_out_of_reach", lambda: why_out_of_reach(patience=0.0))
    if away == "as the flow starts":  # as where the server of its own does not come up
        monkeypatch.setattr(nightly, "why_out_of_reach", lambda: "")

        def no_server(*_, **__):
            raise RuntimeError("Timed out while attempting to connect to ephemeral Prefect API server.")

        monkeypatch.setattr(nightly, "nightly_opened", no_server)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: url}):
            run, finished = nightly.run_with_prefect(config, reporter)
    assert driven == [run] and finished == "finished"
    assert "Prefect is out of reach" in reporter.notes[0] and prefect_health.was_out_of_reach()


def test_a_run_that_ends_before_its_first_stage_is_closed(tmp_path, monkeypatch):
    config = pretend_config(
        str(tmp_path / "store"), write_manifest(tmp_path / "people", 1), execution={"executor": "inline"}
    )

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(nightly, "why_out_of_reach", lambda: "")
    monkeypatch.setattr(nightly, "nightly_opened", stopped)
    with pytest.raises(KeyboardInterrupt):
        nightly.run_with_prefect(config, LogReporter())
    store = open_store(config.store)
    (run_id,) = run_ids(store)
    assert read_status(store, run_id)["state"] == "interrupted"
    assert not running_runs(store) and not RUNS


def test_loopback_goes_through_no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    environment = {}
    exempt_loopback_from_proxy(environment)
    assert environment == {}, "without a proxy nothing has to be said"
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "internal.example")
    monkeypatch.setenv("no_proxy", "")
    exempt_loopback_from_proxy(os.environ)
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "internal.example,127.0.0.1,localhost,::1"
    exempt_loopback_from_proxy(os.environ)
    assert os.environ["no_proxy"].count("localhost") == 1
    for host in ("127.0.0.1", "localhost", "internal.example"):
        assert botocore.utils.should_bypass_proxies(f"http://{host}:9000/bucket"), host
    assert not botocore.utils.should_bypass_proxies("http://elsewhere.example/")
    direct = {pattern.pattern for pattern, transport in httpx.Client()._mounts.items() if transport is None}
    assert {"all://127.0.0.1", "all://localhost", "all://[::1]"} <= direct
    monkeypatch.setenv("no_proxy", "*")
    exempt_loopback_from_proxy(os.environ)
    assert os.environ["no_proxy"] == "*"
