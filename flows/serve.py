"""faceid serve: a Prefect server, and a process that serves every deployment with its form."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress

import click

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError
from flows.options import config_options

SERVER_START_SECONDS = 240


@click.command(short_help="Start a Prefect server with the deployments and their forms.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the Prefect server listens.")
@click.option("--port", default=4200, show_default=True, type=click.IntRange(1, 65535), help="Its port.")
@click.option(
    "--cron", default="", help="Cron line of the nightly schedule, e.g. '0 22 * * *'; empty: no schedule."
)
@config_options
def serve(config: NightlyConfig, host: str, port: int, cron: str) -> None:
    """Serve the deployments, so that runs can be started from forms in the Prefect UI.

    nightly (everybody, also by --cron), personalize-one, evaluate-only, study, erase, collect-garbage.

    Uses the server of PREFECT_API_URL where it is set; otherwise starts one here. The options below are what the
    forms begin with. Ctrl-C stops it; schedules stay active for the next `faceid serve`.
    """
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    server = None
    if not os.environ.get("PREFECT_API_URL"):
        server = _start_server(host, port)
        os.environ["PREFECT_API_URL"] = f"http://{host}:{port}/api"
    try:
        _serve(config, cron)
    finally:
        if server is not None:
            server.terminate()
            server.wait(timeout=30)


def _start_server(host: str, port: int) -> subprocess.Popen:
    click.echo(f"starting a Prefect server on http://{host}:{port}")
    server = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)],
        # The page asks this address; by default that is port 4200, whatever port the server listens on.
        env={**os.environ, "PREFECT_SERVER_UI_API_URL": "/api"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + SERVER_START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ConfigurationError(
                f"the Prefect server on port {port} ended at once; is the port taken? Give another with --port"
            )
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/api/health", timeout=2):
                return server
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    server.terminate()
    raise ConfigurationError(f"the Prefect server did not answer within {SERVER_START_SECONDS} s")


def _serve(config: NightlyConfig, cron: str) -> None:
    import asyncio

    from prefect.exceptions import TerminationSignal
    from prefect.runner import Runner

    from flows.deployments import deployments

    server = os.environ["PREFECT_API_URL"].removesuffix("/api")
    runner = Runner(name="faceid", pause_on_shutdown=False)
    for deployment in deployments(config, cron):
        number = runner.add_deployment(deployment)
        click.echo(f"{deployment.name:<16} {server}/deployments/deployment/{number}")
    click.echo("start any of them from its page: Run, Custom run; Ctrl-C ends serving")
    with suppress(KeyboardInterrupt, TerminationSignal):
        asyncio.run(runner.start())
