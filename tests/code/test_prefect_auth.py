"""The door of a Prefect server of ours: its string, and what a caller without it is answered."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from unittest import mock

import pytest

from faceid_core.errors import ConfigurationError
from flows import prefect_auth, serve
from flows.prefect_auth import NO_ORIGIN, auth_file, load_auth_string, secure_own_server

NAMES = (*prefect_auth._SERVERS, *prefect_auth._ORIGINS, "PREFECT_API_URL", "NO_PROXY", "no_proxy")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    """A user who has set nothing; afterwards Prefect reads the settings that it had."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is restored whatever the code does to it
        monkeypatch.delenv(name)
    yield
    monkeypatch.undo()
    prefect_auth.reload_prefect_settings()


def test_the_string_is_made_once_and_is_its_owners_alone():
    with ThreadPoolExecutor(8) as threads:
        strings = {string.value for string in threads.map(lambda _: load_auth_string(), range(32))}
    (value,) = strings
    user, _, password = value.partition(":")
    assert user == "faceid" and len(password) == 32
    assert auth_file().stat().st_mode & 0o777 == 0o600
    assert value not in repr(load_auth_string()) and str(auth_file()) in repr(load_auth_string())
    assert [path.name for path in auth_file().parent.iterdir()] == ["prefect-auth"]


def test_a_string_that_others_can_read_or_that_is_none_is_refused():
    load_auth_string()
    auth_file().chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_auth_string()
    auth_file().chmod(0o600)
    for text in ("", "no colon", ":", "a:b c", "a:"):
        auth_file().write_text(text)
        with pytest.raises(ConfigurationError, match="remove it"):
            load_auth_string()


def test_a_string_of_the_environment_wins(monkeypatch):
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "me:mine")
    assert load_auth_string().value == "me:mine" and not auth_file().exists()
    secure_own_server()
    assert os.environ["PREFECT_API_AUTH_STRING"] == "me:mine"


def test_a_proxy_of_the_environment_is_not_sent_the_string(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "example.org")
    secure_own_server()
    assert os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost,::1"


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("0.0.0.0", "http://127.0.0.1"),
        ("0", "http://127.0.0.1"),
        ("::", "http://[::1]"),
        ("::1", "http://[::1]"),
        ("127.0.0.2", "http://127.0.0.2"),
        ("localhost", "http://localhost"),
    ],
)
def test_a_server_of_ours_is_reached_directly_wherever_it_listens(monkeypatch, host, origin):
    import httpx
    import websockets.proxy
    import websockets.uri

    asked = []
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", "")
    monkeypatch.setattr(serve, "_require_free", lambda *_: None)
    monkeypatch.setattr(serve, "_start_server", lambda *_: mock.Mock())
    monkeypatch.setattr(serve, "_wait_until_it_answers", lambda _, address, port: asked.append(address))
    monkeypatch.setattr(serve, "_require_ours", lambda *_: None)
    with serve._own_server(host, 4299) as (url, _), httpx.Client() as client:
        assert asked == [f"{origin}:4299"] and url == f"{origin}:4299/api"
        assert client._transport_for_url(httpx.URL(url)) is client._transport
        assert client._transport_for_url(httpx.URL("http://elsewhere.example")) is not client._transport
        stream = websockets.uri.parse_uri(f"{url.replace('http', 'ws', 1)}/events/in")
        assert websockets.proxy.get_proxy(stream) is None


def test_the_start_of_a_server_of_ours_is_awaited_without_a_proxy(monkeypatch):
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(serve, "SERVER_START_SECONDS", 2)
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        running = mock.Mock(**{"poll.return_value": None})
        serve._wait_until_it_answers(running, f"http://127.0.0.1:{server.server_port}", 0)
        server.shutdown()


class Answering(BaseHTTPRequestHandler):
    """Answers without asking for a string, as a Prefect server or another program."""

    def do_GET(self):
        status, body = self.server.answer
        self.server.sent.append(dict(self.headers))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, b"true"), r"a Prefect server answers there, which is not ours; .*PREFECT_API_URL=http://127\.0\.0\.1:"),
        ((404, b"no"), "another program than Prefect answers there"),
        ((200, b"hello"), "another program than Prefect answers there"),
    ],
)
def test_a_foreign_server_on_the_port_is_refused_and_gets_no_string(answer, said, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "")
    with HTTPServer(("127.0.0.1", 0), Answering) as foreign:
        foreign.answer, foreign.sent = answer, []
        Thread(target=foreign.serve_forever, args=(0.02,), daemon=True).start()
        with pytest.raises(ConfigurationError, match=said), serve._own_server("127.0.0.1", foreign.server_port):
            pass
        foreign.shutdown()
    assert not [headers for headers in foreign.sent if "Authorization" in headers]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux tells which process listens")
def test_a_foreign_server_that_takes_the_port_meanwhile_is_refused():
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        port = foreign.getsockname()[1]
        serve._require_ours(os.getpid(), "http://here", port)
        sleeping = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        try:
            with pytest.raises(ConfigurationError, match="another server than ours answers on http://here"):
                serve._require_ours(sleeping.pid, "http://here", port)
        finally:
            sleeping.kill()
            sleeping.wait()


def basic(string: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(string.encode()).decode()}"}


OWN, FOREIGN = (
    "http://127.0.0.1:4299",
    ("https://evil.example", "http://127.0.0.1:8000", "null", "http://localhost:4299"),
)


@pytest.fixture
def closed():
    """A server's application as the process that `serve` starts makes it, and the string."""
    from prefect.server.api.server import create_app
    from starlette.testclient import TestClient

    string = secure_own_server(OWN).value
    return TestClient(create_app(ignore_cache=True), raise_server_exceptions=False), string


def test_a_server_of_ours_answers_no_request_without_the_string(closed):
    client, string = closed
    ask = {"flow_runs": {}, "limit": 1}
    for headers in ({}, basic("faceid:"), basic("faceid:guess"), {"Authorization": f"Bearer {string}"}):
        assert client.get("/api/admin/version", headers=headers).status_code == 401
        for path in ("deployments/filter", "flow_runs/filter", "flow_runs/", "automations/filter"):
            assert client.post(f"/api/{path}", json=ask, headers=headers).status_code == 401, (path, headers)
        assert client.get("/api/admin/settings", headers=headers).status_code == 401
    assert client.get("/api/health").status_code == 200
    assert client.get("/api/admin/version", headers=basic(string)).status_code == 200
    assert string not in client.get("/ui-settings").text


@pytest.mark.parametrize("path", ["events/out", "events/in", "logs/out"])
def test_its_streams_are_closed_without_the_string(closed, path):
    from starlette.websockets import WebSocketDisconnect

    client, _ = closed
    for protocols in ([], ["prefect"]):
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect(f"/api/{path}", subprotocols=protocols) as stream,
        ):
            stream.send_json({"type": "auth", "token": "faceid:guess"})
            stream.receive_json()


def test_a_server_of_ours_lets_no_foreign_page_read_its_answers(closed):
    client, string = closed
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for origin in FOREIGN:
        asked = client.options("/api/flow_runs/filter", headers={"Origin": origin, **preflight})
        read = client.get("/api/admin/version", headers={"Origin": origin, **basic(string)})
        assert asked.status_code == 400
        for answer in (asked, read):
            assert "access-control-allow-origin" not in answer.headers, origin
    own = client.options("/api/flow_runs/filter", headers={"Origin": OWN, **preflight})
    assert own.headers["access-control-allow-origin"] == OWN


def test_a_runs_own_server_is_closed_and_a_users_is_left_alone(monkeypatch):
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_ENABLED, temporary_settings

    from flows.cli_run import _prefect_settings

    with temporary_settings({PREFECT_API_URL: "http://me:secret@prefect.example/api"}):
        told = _prefect_settings()
    assert "prefect.example" in told and "secret" not in told
    assert not any(name in os.environ for name in prefect_auth._SERVERS) and not auth_file().exists()

    with (
        temporary_settings({PREFECT_SERVER_EPHEMERAL_ENABLED: False}, restore_defaults=[PREFECT_API_URL]),
        pytest.raises(ConfigurationError, match="PREFECT_API_URL is not set"),
    ):
        _prefect_settings()

    with temporary_settings({PREFECT_SERVER_EPHEMERAL_ENABLED: True}, restore_defaults=[PREFECT_API_URL]):
        _prefect_settings()
    assert {os.environ[name] for name in prefect_auth._SERVERS} == {load_auth_string().value}
    assert os.environ["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"] == NO_ORIGIN
