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
from http.client import HTTPException
from pathlib import Path
from typing import cast
from uuid import UUID

import click

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, ServerAway
from faceid_core.outcomes import EXIT_FAILURES
from faceid_core.private import without_credentials
from flows.cli_automations import put_silent
from flows.local_network import exempt_loopback_from_proxy, http_origin, reachable_host
from flows.options import takes_config
from flows.prefect_auth import reload_prefect_settings, secure_own_server
from flows.prefect_server import configured_server, require_server

SERVER_START_SECONDS = 240
_SERVER_STOP_SECONDS = 30
_PR_SET_PDEATHSIG = 1  # prctl(2)
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp
# urllib and httpx agree on no entry of no_proxy for an IPv6 address, so use no proxy at all.
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
SERVER_SETTINGS = {
    # The pages request this address; the default is port 4200, whatever port the server listens on.
    "PREFECT_SERVER_UI_API_URL": "/api",
    # By default Prefect keeps leases in memory, and a restart would forget which run holds a deployment's slot.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # By default it deletes old events alone, and an id that was typed into a form would stay for ever.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs,orphans",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(90 * 86_400),
}


@click.command()
@takes_config("identities", "store", "execution.workers")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the Prefect server listens.")
@click.option("--port", default=4200, show_default=True, type=click.IntRange(1, 65535), help="Its port.")
@click.option(
    "--cron", default="", help="Schedule of the nightly deployment, as in '0 22 * * *'.  [default: none]"
)
def serve(config: NightlyConfig, host: str, port: int, cron: str) -> None:
    """The deployments are nightly (also by --cron), personalize-one, evaluate-only, study, erase, erase-expired-consent
    (daily; it only lists people unless consent.erase_after_days is set) and collect-garbage.
    Their forms begin with the configuration that is given here.

    The server is the one of PREFECT_API_URL. Without it a server is started here; its pages ask once for a string
    that is kept in ~/.config/faceid/prefect-auth. Ctrl-C or SIGTERM ends the runs, each with its outcome report, and then
    this command. The schedule of --cron is removed by the next faceid serve without --cron, which says so. If the server
    ends or is away, the exit status is 2, and a service manager may start this command again.

    \b
    Example:
      faceid serve --config run.yaml --cron '0 22 * * *'
    """
    try:
        if configured_server():
            _serve(config, cron, require_server(), None)
        else:
            with _own_server(host, port) as (url, server):
                _serve(config, cron, url, server)
    except ServerAway as away:
        click.echo(f"error: {away}", err=True)
        raise click.exceptions.Exit(EXIT_FAILURES) from None


@contextmanager
def _own_server(host: str, port: int):
    """Run a Prefect server for a block; yields the address of its API, which the environment names too, and its process.

    Raises:
        ConfigurationError: it cannot be started on this address.
    """
    _require_free(host, port)
    reached = reachable_host(host)
    origin = http_origin(reached, port)
    exempt_loopback_from_proxy(os.environ, reached)  # a proxy would be sent the string
    string = secure_own_server(origin)
    click.echo(f"starting a Prefect server on {origin}")
    server = _start_server(host, port)
    try:
        _wait_until_it_answers(server, origin, port)
        _require_ours(server.pid, origin, port)
        os.environ["PREFECT_API_URL"] = f"{origin}/api"
        reload_prefect_settings()
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
    """The string, on a terminal only: any other output may be a log."""
    return f": {string}" if sys.stdout.isatty() else ""


def _require_free(host: str, port: int) -> None:
    """Refuse a port that is in use: we would take another server for ours and send it our string."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"the Prefect server cannot listen on {host}:{port} ({error.strerror}){_who_answers(host, port)}. Give "
            "another address with --host and --port"
        ) from None


def _who_answers(host: str, port: int) -> str:
    """Which kind of server uses the address; empty if none answers. It is asked without our string."""
    try:
        origin = http_origin(reachable_host(host), port)
        with _DIRECTLY.open(f"{origin}/api/health", timeout=2) as answer:
            is_prefect = answer.read(16).strip() == b"true"
    except (urllib.error.HTTPError, HTTPException):
        is_prefect = False
    except OSError:  # no such host, or no answer
        return ""
    if not is_prefect:
        return ": another program than Prefect answers there"
    return (
        ": a Prefect server answers there, which is not ours; end it (another `faceid serve`?), or use it with "
        f"PREFECT_API_URL={origin}/api"
    )


def _require_ours(pid: int, origin: str, port: int) -> None:
    """Refuse a server that took the port while ours was starting: it would be sent our string.

    Linux tells which process listens; on other systems this is not checked.

    Args:
        pid: Of our server.
        origin: Its address.
        port: Its port.

    Raises:
        ConfigurationError: our server does not listen on the port.
    """
    listening = _listening(port)
    if listening is None:
        return
    own = set()
    for entry in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):  # closed meanwhile
            own.add(os.readlink(entry))
    if not own & listening:
        raise ConfigurationError(
            f"another server than ours answers on {origin}: it took the port while ours was starting. Give another with "
            "--port"
        )


def _listening(port: int) -> set[str] | None:
    """The sockets that listen on a port of this machine, as /proc names them in a process's files; None without /proc."""
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:
            if table == "tcp":
                return None
            continue  # without IPv6
        for line in lines:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == _LISTEN:
                found.add(f"socket:[{fields[9]}]")
    return found


def _start_server(host: str, port: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)],
        env={**os.environ, **SERVER_SETTINGS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C in a terminal must not reach the server: runs are ended first, and report their ends to it.
        start_new_session=True,
        preexec_fn=_end_with_parent(),
    )


def _end_with_parent():
    """A function for the child to call first, so that Linux stops it if this process is killed; None on other systems."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_until_it_answers(server: subprocess.Popen, origin: str, port: int) -> None:
    deadline = time.monotonic() + SERVER_START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ConfigurationError(
                f"the Prefect server on port {port} ended at once; is the port taken? Give another with --port"
            )
        with (
            suppress(urllib.error.URLError, OSError),
            _DIRECTLY.open(f"{origin}/api/health", timeout=2),
        ):
            return
        time.sleep(0.5)
    raise ServerAway(f"the Prefect server did not answer within {SERVER_START_SECONDS} s")


def _serve(config: NightlyConfig, cron: str, url: str, server: subprocess.Popen | None) -> None:
    """Register the deployments and serve them.

    Args:
        config: The initial values of the forms.
        cron: The cron line of the nightly schedule.
        url: The address of the server's API.
        server: The server's process, if we started it.
    """
    from prefect.client.orchestration import get_client  # heavy, as is all that imports it here

    from flows.crashed_runs import OWN_SERVER, RunProcesses, mark_crashed_runs
    from flows.deployments import (
        deployments,
        keep_operator_changes,
        refuse_those_of_pools,
        scheduled_twice,
    )
    from flows.graceful_runner import GracefulRunner

    own = server is not None
    started = RunProcesses(OWN_SERVER if own else without_credentials(url))
    runner = GracefulRunner(started, click.echo, lambda: server is None or server.poll() is None)
    numbers: list[UUID] = []
    with get_client(sync_client=True) as client:
        offered = deployments(config, cron)
        refuse_those_of_pools(client, offered)
        for deployment in offered:
            if keep_operator_changes(client, deployment, click.echo):
                click.echo(f"{deployment.name}: switched off on the server, and left off")
            # Without an event loop it answers at once, not with a coroutine.
            numbers.append(cast(UUID, runner.add_deployment(deployment)))
            pages = without_credentials(url).removesuffix("/api")
            click.echo(f"{deployment.name:<21} {pages}/deployments/deployment/{numbers[-1]}")
        for name in mark_crashed_runs(client, started, numbers, own=own):
            click.echo(f"{name}: its process ended without telling Prefect; marked as crashed")
        for line in scheduled_twice(client, offered):
            click.echo(line)
        if own:
            put_silent(client)
    click.echo("start any of them from its page: Run, Custom run; Ctrl-C ends serving")
    asyncio.run(runner.serve())
