"""An error of the environment ends a command with a sentence that names the setting or the path, not as our bug."""

from __future__ import annotations

import errno
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

import flows.cli
from flows.cli import main

ENDS = {0: "complete", 1: "our bug", 2: "failures", 3: "configuration"}


def run_cli(monkeypatch, *arguments: str) -> int:
    """The command as its entry point runs it; returns the exit status."""
    monkeypatch.setattr(sys, "argv", ["faceid", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def run_failing(monkeypatch, error: BaseException) -> int:
    """A command that ends in this error."""

    @click.command()
    def fails():
        raise error

    monkeypatch.setitem(flows.cli.COMMANDS, "fails", ("tests.code.no_module", "fails", ""))
    monkeypatch.setitem(sys.modules, "tests.code.no_module", SimpleNamespace(fails=fails))
    return run_cli(monkeypatch, "fails")


def os_error(number: int, path: str | None = None) -> OSError:
    return (
        OSError(number, errno.errorcode[number], path) if path else OSError(number, errno.errorcode[number])
    )


def outside_errors():
    import botocore.exceptions
    import httpx
    import ray.exceptions
    from deltalake.exceptions import DeltaError
    from prefect.deployments.runner import DeploymentApplyError
    from prefect.exceptions import ObjectNotFound

    request = httpx.Request("POST", "http://127.0.0.1:9/api/flows/")
    refused = DeploymentApplyError("Error while applying deployment")
    refused.__cause__ = httpx.ConnectError("All connection attempts failed", request=request)
    denied = {"Error": {"Code": "AccessDenied", "Message": "no"}}
    timed_out = "Timed out while attempting to connect to ephemeral Prefect API server."
    return {
        "full disk": (os_error(errno.ENOSPC, "/store/x"), 2, ["disk is full", "/store/x"]),
        "quota": (os_error(errno.EDQUOT), 2, ["quota"]),
        "disk fails": (os_error(errno.EIO, "/store/x"), 2, ["/store/x"]),
        "open files": (os_error(errno.EMFILE), 2, ["ulimit -n"]),
        "no permission": (PermissionError(errno.EACCES, "Permission denied", "/out/x"), 3, ["/out/x: Perm"]),
        "read-only": (os_error(errno.EROFS, "/out/x"), 3, ["/out/x"]),
        "no folder": (FileNotFoundError(errno.ENOENT, "No such file or directory", "/no/x"), 3, ["/no/x"]),
        "a file as folder": (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/a/b"), 3, ["/a/b"]),
        "a bare connection": (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), 3, ["cannot be reached"]),
        "a socket's timeout": (TimeoutError("The read operation timed out"), 3, ["cannot be reached"]),
        "a numbered timeout": (os_error(errno.ETIMEDOUT), 3, ["cannot be reached"]),
        "no right to read": (PermissionError(errno.EACCES, "Denied", flows.__file__), 3, ["flows/__init__.py"]),
        "out of memory": (MemoryError(), 2, ["out of memory", "execution.workers"]),
        "Prefect away": (httpx.ConnectError("refused", request=request), 3, ["PREFECT_API_URL"]),
        "Prefect slow": (httpx.ReadTimeout("timed out", request=request), 3, ["PREFECT_API_URL"]),
        "no scheme": (httpx.UnsupportedProtocol("Request URL is missing"), 3, ["PREFECT_API_URL"]),
        "Prefect refuses": (status(request, 401), 3, ["PREFECT_API_AUTH_STRING"]),
        "Prefect's bug": (status(request, 500), 3, ["its log"]),
        "registering": (refused, 3, ["PREFECT_API_URL"]),
        "in a group": (ExceptionGroup("tasks", [ValueError("x"), refused]), 3, ["PREFECT_API_URL"]),
        "own server late": (RuntimeError(timed_out), 3, ["STARTUP_TIMEOUT_SECONDS"]),
        "another database": (ObjectNotFound(Exception("404")), 3, ["database"]),
        "another site": (
            httpx.ConnectError("refused", request=httpx.Request("GET", "https://weights.example/a")),
            3,
            ["weights.example"],
        ),
        "no credentials": (botocore.exceptions.NoCredentialsError(), 3, ["credentials"]),
        "S3 refuses": (botocore.exceptions.ClientError(denied, "PutObject"), 2, ["AccessDenied"]),
        "tables": (DeltaError("no log"), 2, ["tables"]),
        "Ray lost": (ray.exceptions.RaySystemError("the head is gone"), 2, ["Ray", "goes on from there"]),
    }  # fmt: skip


def status(request, code: int):
    import httpx

    return httpx.HTTPStatusError(str(code), request=request, response=httpx.Response(code, request=request))


def test_no_failure_of_the_world_outside_is_called_a_bug(monkeypatch, capsys):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        for name, (error, expected, words) in outside_errors().items():
            assert run_failing(monkeypatch, error) == expected, name
            told = capsys.readouterr().err
            assert told.startswith("error: ") and "Traceback" not in told and "bug" not in told, name
            assert not [word for word in words if word not in told], (name, told)


def test_a_bug_is_still_called_one(monkeypatch, capsys):
    from ray.exceptions import RayTaskError

    packaged = str(Path(flows.__file__).parents[1] / "faceid_core" / "diffusion" / "no-such-asset")
    in_a_task = RayTaskError("f", "Traceback: ZeroDivisionError", ZeroDivisionError())
    for error in (
        RuntimeError("x"),
        KeyError("x"),
        OSError("no number, no path"),
        ValueError("x"),
        TimeoutError("queue lock"),
        TimeoutError(),
        FileNotFoundError(errno.ENOENT, "No such file or directory", packaged),
        in_a_task,
    ):
        assert run_failing(monkeypatch, error) == 1
        told = capsys.readouterr().err
        assert "this is a bug in faceid" in told and "Traceback" in told


VERSION = b'"3.8.8"'


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        code, body = self.server.answer
        if body == VERSION and self.path.endswith("/health"):
            body = b"true"
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def answering():
    """A server that answers everything alike: (address, what to answer)."""
    server = HTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()


@pytest.mark.parametrize("command", ["automations", "serve"])
def test_commands_that_need_a_server_say_which_setting_is_wrong(monkeypatch, capsys, command, answering):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    # Asked once: a server that is away is given ten seconds otherwise, since it may just be restarting.
    monkeypatch.setattr("flows.prefect_health.PATIENCE_SECONDS", 0)
    waited = []
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=waited.append)
    monkeypatch.setattr("flows.prefect_health.time", clock)
    server, address = answering
    cases = [
        ("http://127.0.0.1:9/api", None, ["PREFECT_API_URL", "does not answer"]),
        ("127.0.0.1:4200/api", None, ["PREFECT_API_URL"]),
        ("http://no-such-host.invalid/api", None, ["PREFECT_API_URL", "no-such-host.invalid"]),
        (address, (401, b"{}"), ["401", "PREFECT_API_AUTH_STRING", "prefect-auth"]),
        (address, (404, b"{}"), ["PREFECT_API_URL", "ends in /api"]),
        (address, (200, b"<!doctype html>"), ["PREFECT_API_URL", "ends in /api"]),
        (address, (503, b"{}"), ["503", "its log"]),
        (address.replace("//", "//me:secret@"), (401, b"{}"), ["401"]),
    ]
    # A server that may come back ends `serve` with another status, after which systemd starts it again.
    may_pass = {"http://127.0.0.1:9/api", "http://no-such-host.invalid/api"}
    for url, answer, words in cases:
        server.answer = answer
        status = 2 if command == "serve" and (url in may_pass or "503" in words) else 3
        with temporary_settings({PREFECT_API_URL: url}):
            assert run_cli(monkeypatch, command) == status, url
        assert not waited, url
        told = capsys.readouterr().err
        assert "Traceback" not in told and "bug" not in told and "secret" not in told, told
        assert not [word for word in words if word not in told], told


def test_automations_without_a_server_start_none(monkeypatch, capsys):
    import prefect.server.api.server as servers
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setattr(servers.SubprocessASGIServer, "start", lambda *_: pytest.fail("it started a server"))
    with temporary_settings(restore_defaults=[PREFECT_API_URL]):
        assert run_cli(monkeypatch, "automations") == 3
    assert "PREFECT_API_URL is not set" in capsys.readouterr().err


def test_files_that_hold_no_automation_are_named(monkeypatch, capsys, tmp_path, answering):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    server, address = answering
    server.answer = (200, VERSION)
    named = "name: x\ntrigger: {type: nonsense}\nactions: "
    for text in ("a: [", "- 1", f"{named}3\n", f"{named}[]\n"):
        (tmp_path / "a.yaml").write_text(text)
        with temporary_settings({PREFECT_API_URL: address}):
            monkeypatch.setattr("flows.cli_automations.known_block", lambda: None)
            assert run_cli(monkeypatch, "automations", str(tmp_path / "a.yaml")) == 3, text
        told = capsys.readouterr().err
        assert "Traceback" not in told and ("a.yaml" in told or "'x'" in told), told


@pytest.mark.parametrize("kind", ["slack", "teams", "webhook"])
def test_what_is_no_webhook_is_told_without_its_text(monkeypatch, capsys, kind, answering):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    server, address = answering
    server.answer = (200, VERSION)
    with temporary_settings({PREFECT_API_URL: address}):
        assert run_cli(monkeypatch, "automations", "--notify", "sesame", "--notify-kind", kind) == 3
    told = capsys.readouterr().err
    assert "--notify" in told and "bug" not in told and "sesame" not in told
