"""faceid doctor: checks whether this machine can do a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import click

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError
from faceid_core.outcomes import EXIT_CONFIGURATION
from faceid_core.private import without_credentials
from flows.local_network import bind_ray_to_loopback
from flows.options import takes_config
from flows.prefect_server import configured_server, require_may_start_server
from flows.stopping import slow_to_leave

if TYPE_CHECKING:
    from faceid_core.doctor.expectation import Expected
    from faceid_core.doctor.finding import Finding
    from flows.console import StatusLine

_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@takes_config("identities", "store", "execution.executor", "execution.workers")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option(
    "--cost-per-hour", type=click.FloatRange(0), help="Price of one worker for an hour, in any currency."
)
@click.option(
    "--no-measuring", is_flag=True, help="Do not measure times that no earlier run of the store tells."
)
def doctor(config: NightlyConfig, as_json: bool, cost_per_hour: float | None, no_measuring: bool) -> None:
    """Devices, memory, versions, weights, store, Prefect, Ray and disk are checked, and the time of the run is
    estimated. The store's conditional writes are raced on scratch objects, which are removed again.

    Exit status: 0 the run can start (there may be warnings), 3 it cannot.

    \b
    Example:
      faceid doctor --config run.yaml --cost-per-hour 2.50
    """
    from faceid_core.doctor.finding import as_records
    from flows.console import StatusLine

    with StatusLine(lines=True) as status:
        findings = examine(config, status, cost_per_hour=cost_per_hour, measuring=not no_measuring)
    if as_json:
        click.echo(json.dumps({"findings": as_records(findings), "ok": _fit(findings)}, indent=1))
    else:
        _print_findings(findings)
    raise click.exceptions.Exit(0 if _fit(findings) else EXIT_CONFIGURATION)


def _fit(findings: list[Finding]) -> bool:
    return all(each.state != "fail" for each in findings)


def _print_findings(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("check", "", "found", "what to do")
    for each in findings:
        color = _COLORS[each.state]
        table.add_row(each.check, f"[{color}]{each.state}[/]", _plain(each.found), _plain(each.advice))
    console = Console(highlight=False)
    console.print(table)
    worst = [each for each in findings if each.state == "fail"]
    console.print(f"{len(worst)} failure(s) keep the run from running" if worst else "the run can start")


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def examine(
    config: NightlyConfig, status: StatusLine, *, cost_per_hour: float | None = None, measuring: bool = True
) -> list[Finding]:
    """Do every check, and say which is under way; an exception of one becomes its finding, and the others go on."""
    from faceid_core.doctor import machine
    from faceid_core.doctor.finding import guarded
    from faceid_core.doctor.rates import learning_rate
    from faceid_core.doctor.storage import storage
    from faceid_core.doctor.weights import weights

    def check(name: str, examine_it: Callable[[], Iterable[Finding]]) -> list[Finding]:
        status.show(f"checking {name}")
        return guarded(name, examine_it)

    found = [
        *check("devices", lambda: machine.devices(config)),
        *check("memory", lambda: machine.memory(config)),
        *check("versions", machine.versions),
        *check("weights", lambda: weights(config)),
        *check("learning rate", lambda: learning_rate(config)),
        *check("store", lambda: storage(config)),
    ]
    workers = 1
    if config.execution.executor == "ray":
        found += check("prefect", _prefect)
        status.show("checking ray")
        rays, workers = _ray(config)
        found += rays
    status.show("checking manifest")
    people, manifest = _people(config)
    return [
        *found,
        *manifest,
        *check("the run", lambda: _run(config, people, workers, cost_per_hour, measuring, status)),
    ]


def _ray(config: NightlyConfig) -> tuple[list[Finding], int]:
    from faceid_core.doctor.finding import guarded

    workers = 1

    def check() -> list[Finding]:
        nonlocal workers
        bind_ray_to_loopback(os.environ, config.execution.ray_address)
        from tasks.ray_cluster import check_ray

        slow_to_leave("Ray")
        found, workers = check_ray(config)
        return found

    return guarded("ray", check), workers


def _prefect() -> Iterator[Finding]:
    """Check that the Prefect server of a run answers."""
    from faceid_core.doctor.finding import Finding
    from flows.prefect_health import ask_server

    try:
        url = configured_server()
        if not url:
            require_may_start_server()
            yield Finding("prefect", "ok", "PREFECT_API_URL is not set: a run starts a server of its own")
            return
        answer = ask_server()
    except ConfigurationError as error:
        found, _, advice = str(error).partition("; ")
        yield Finding("prefect", "fail", found, advice)
        return
    if answer.why:
        advice = "start it and look at its log, or correct or unset PREFECT_API_URL; a run would run without its UI"
        yield Finding("prefect", "fail", answer.why, advice)
        return
    theirs, ours = answer.version, version("prefect")
    found = f"{without_credentials(url)}: server {theirs or 'of unknown version'}, this client {ours}"
    if theirs and theirs.split(".")[:2] != ours.split(".")[:2]:
        yield Finding("prefect", "warn", found, "use the same minor version for server and client")
    else:
        yield Finding("prefect", "ok", found)


def _people(config: NightlyConfig) -> tuple[int, list[Finding]]:
    from faceid_core.doctor.finding import Finding, guarded
    from faceid_core.run.identities import read_identities

    people = 0

    def read() -> Iterator[Finding]:
        nonlocal people
        people = len(read_identities(config))
        yield Finding("manifest", "ok" if people else "warn", f"{people} people in {config.identities}")

    found = guarded("manifest", read)
    return people, found


def _run(
    config: NightlyConfig,
    people: int,
    workers: int,
    cost_per_hour: float | None,
    measuring: bool,
    status: StatusLine,
) -> Iterator[Finding]:
    from faceid_core.doctor import machine
    from faceid_core.doctor.expectation import calibrate, expectation
    from faceid_core.plan.planning import plan_run

    planned = plan_run(config, status)
    pictures = len(planned.run.plan.grid.prompts) * config.generate.seeds
    yield from machine.disk(config, people, planned.run.plan.crop_pixels, pictures)

    def measure(*about: Any) -> Expected:
        status.show("measuring some steps of training and of drawing, for some seconds")
        return calibrate(*about)

    yield from expectation(planned, workers=workers, cost_per_hour=cost_per_hour, measure=measure if measuring else None)
