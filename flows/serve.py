"""faceid serve: a Prefect server, and a process that serves every deployment with its form.

What imports Prefect is imported in the functions: Prefect reads its settings from the environment once.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress

import click

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError
from faceid_core.private import without_credentials
from flows.loopback import http_origin, reach_loopback_directly, reachable_host
from flows.options import takes_config
from flows.prefect_auth import close_own_server, refresh_prefect
from flows.prefect_server import configured_server, require_server

SERVER_START_SECONDS = 240
_SERVER_STOP_SECONDS = 30
_PR_SET_PDEATHSIG = 1  # prctl(2)
_SERVER_SETTINGS = {
    # The page asks this address; by default that is port 4200, whatever port the server listens on.
    "PREFECT_SERVER_UI_API_URL": "/api",
    # In memory, as is Prefect's default, a restart would forget who holds a deployment's place.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}


@click.command()
@takes_config("identities", "store", "execution.workers")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the Prefect server listens.")
@click.option("--port", default=4200, show_default=True, type=click.IntRange(1, 65535), help="Its port.")
@click.option(
    "--cron", default="", help="Schedule of the nightly deployment, as in '0 22 * * *'.  [default: none]"
)
def serve(config: NightlyConfig, host: str, port: int, cron: str) -> None:
    """The deployments are nightly (also by --cron), personalize-one, evaluate-only, study, erase and collect-garbage.
    Their forms begin with the configuration that is given here.

    The server is the one of PREFECT_API_URL. Without it a server is started here; its pages ask once for a string
    that is kept in ~/.config/faceid/prefect-auth. Ctrl-C or SIGTERM ends the runs, each with its account, and then
    this command. Schedules stay as they are for the next faceid serve.

    \b
    Example:
      faceid serve --config night.yaml --cron '0 22 * * *'
    """
    if configured_server():
        _serve(config, cron, require_server(), None)
        return
    with _own_server(host, port) as (url, server):
        _serve(config, cron, url, server)


@contextmanager
def _own_server(host: str, port: int):
    """A server of ours for as long as the block lasts; yields its API's address, named in the environment too, and it.

    Raises:
        ConfigurationError: it cannot be started there.
    """
    _require_free(host, port)
    reached = reachable_host(host)
    origin = http_origin(reached, port)
    reach_loopback_directly(os.environ, reached)  # a proxy would be sent the string
    string = close_own_server(origin)
    click.echo(f"starting a Prefect server on {origin}")
    server = _start_server(host, port)
    try:
        _wait_until_it_answers(server, origin, port)
        os.environ["PREFECT_API_URL"] = f"{origin}/api"
        refresh_prefect()
        click.echo(f"its pages ask once for the string of {string.source}{_shown(string.value)}")
        yield os.environ["PREFECT_API_URL"], server
    finally:
        server.terminate()
        try:
            server.wait(timeout=_SERVER_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _shown(string: str) -> str:
    """The string for the operator's eyes; what is no terminal may be a log."""
    return f": {string}" if sys.stdout.isatty() else ""


def _require_free(host: str, port: int) -> None:
    """Without this, the server of somebody else on that port would be taken for ours, and get our string."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"the Prefect server cannot listen on {host}:{port} ({error.strerror}): is another `faceid serve` "
            "running? Give another address with --host and --port"
        ) from None


def _start_server(host: str, port: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)],
        env={**os.environ, **_SERVER_SETTINGS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C in a terminal is for us: runs are ended first, and tell the server so.
        start_new_session=True,
        preexec_fn=_end_with_parent(),
    )


def _end_with_parent():
    """What a child does first, so that it is stopped when we are killed and cannot stop it; nothing but on Linux."""
    if not sys.platform.startswith("linux"):
        return None

    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_until_it_answers(server: subprocess.Popen, origin: str, port: int) -> None:
    deadline = time.monotonic() + SERVER_START_SECONDS
    # urllib knows no entry of no_proxy for an IPv6 address that httpx takes as well.
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ConfigurationError(
                f"the Prefect server on port {port} ended at once; is the port taken? Give another with --port"
            )
        with (
            suppress(urllib.error.URLError, OSError),
            directly.open(f"{origin}/api/health", timeout=2),
        ):
            return
        time.sleep(0.5)
    raise ConfigurationError(f"the Prefect server did not answer within {SERVER_START_SECONDS} s")


def _serve(config: NightlyConfig, cron: str, url: str, server: subprocess.Popen | None) -> None:
    """Register the deployments and serve them.

    Args:
        config: What the forms begin with.
        cron: The nightly schedule.
        url: The server's API.
        server: Its process if it is ours.
    """
    from prefect.client.orchestration import get_client

    from flows.cli_automations import put_silent
    from flows.deployments import deployments
    from flows.kept_switches import keep_switches
    from flows.lost_runs import OWN_SERVER, StartedRuns, close_lost_runs
    from flows.serving_runner import ServingRunner

    own = server is not None
    started = StartedRuns(OWN_SERVER if own else without_credentials(url))
    runner = ServingRunner(started, click.echo, lambda: server is None or server.poll() is None)
    numbers = []
    with get_client(sync_client=True) as client:
        for deployment in deployments(config, cron):
            if keep_switches(client, deployment):
                click.echo(f"{deployment.name}: switched off on the server, and left so")
            numbers.append(runner.add_deployment(deployment))
            pages = without_credentials(url).removesuffix("/api")
            click.echo(f"{deployment.name:<16} {pages}/deployments/deployment/{numbers[-1]}")
        for name in close_lost_runs(client, started, numbers, own=own):
            click.echo(f"{name}: its process had ended untold; marked as crashed")
        if own:
            put_silent(client)
    click.echo("start any of them from its page: Run, Custom run; Ctrl-C ends serving")
    asyncio.run(runner.serve())
