"""faceid doctor: looks the machine over before the run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import click
from rich.console import Console
from rich.table import Table

from faceid_core.config import NightlyConfig
from faceid_core.doctor.finding import Finding, as_records, guarded
from faceid_core.errors import ConfigurationError
from faceid_core.outcomes import EXIT_CONFIGURATION
from faceid_core.private import without_credentials
from flows.local_network import bind_ray_to_loopback
from flows.options import config_options
from flows.stopping import slow_to_leave

_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(short_help="Look the machine over before the run.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option(
    "--cost-per-hour", type=click.FloatRange(0), help="Price of one worker for an hour, in any currency."
)
@click.option("--no-measuring", is_flag=True, help="Where no earlier run tells the time, leave it open.")
@config_options
def doctor(config: NightlyConfig, as_json: bool, cost_per_hour: float | None, no_measuring: bool) -> None:
    """Check devices, memory, versions, weights, store, Prefect, Ray and disk, and say what the run will take.

    The store's conditional writes are raced on scratch names, which are removed again. Exit status 0: the run can
    run (there may be warnings); 3: it cannot.
    """
    findings = examine(config, cost_per_hour=cost_per_hour, measuring=not no_measuring)
    if as_json:
        click.echo(json.dumps({"findings": as_records(findings), "ok": _fit(findings)}, indent=1))
    else:
        _say(findings)
    raise click.exceptions.Exit(0 if _fit(findings) else EXIT_CONFIGURATION)


def _fit(findings: list[Finding]) -> bool:
    return all(each.state != "fail" for each in findings)


def _say(findings: list[Finding]) -> None:
    table = Table("check", "", "found", "what to do")
    for each in findings:
        color = _COLORS[each.state]
        table.add_row(each.check, f"[{color}]{each.state}[/]", _plain(each.found), _plain(each.advice))
    console = Console(highlight=False)
    console.print(table)
    worst = [each for each in findings if each.state == "fail"]
    console.print(f"{len(worst)} thing(s) keep the run from running" if worst else "the run can run")


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def examine(
    config: NightlyConfig, *, cost_per_hour: float | None = None, measuring: bool = True
) -> list[Finding]:
    """Every check; what one of them raises is its finding, and the others still run."""
    from faceid_core.doctor import machine
    from faceid_core.doctor.storage import storage
    from faceid_core.doctor.weights import weights

    found = [
        *guarded("devices", lambda: machine.devices(config)),
        *guarded("memory", lambda: machine.memory(config)),
        *guarded("versions", machine.versions),
        *guarded("weights", lambda: weights(config)),
        *guarded("store", lambda: storage(config)),
    ]
    workers = 1
    if config.execution.executor == "ray":
        found += guarded("prefect", _prefect)
        rays, workers = _ray(config)
        found += rays
    people, told = _people(config)
    return [
        *found,
        *told,
        *guarded("the run", lambda: _run(config, people, workers, cost_per_hour, measuring)),
    ]


def _ray(config: NightlyConfig) -> tuple[list[Finding], int]:
    workers = 1

    def check() -> list[Finding]:
        nonlocal workers
        bind_ray_to_loopback(os.environ, config.execution.ray_address)
        from tasks.ray_check import check_ray

        slow_to_leave("Ray")
        found, workers = check_ray(config)
        return found

    return guarded("ray", check), workers


def _prefect() -> Iterator[Finding]:
    """Whether the server that a run would use, by the settings that a run reads, answers."""
    from importlib.metadata import version as installed

    from flows.prefect_health import ask_server
    from flows.prefect_server import configured_server, require_may_start_server

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
    theirs, ours = answer.version, installed("prefect")
    found = f"{without_credentials(url)}: server {theirs or 'of no told version'}, this client {ours}"
    if theirs and theirs.split(".")[:2] != ours.split(".")[:2]:
        yield Finding("prefect", "warn", found, "use the same minor version on both sides")
    else:
        yield Finding("prefect", "ok", found)


def _people(config: NightlyConfig) -> tuple[int, list[Finding]]:
    from faceid_core.run.identities import read_identities

    people = 0

    def read() -> Iterator[Finding]:
        nonlocal people
        people = len(read_identities(config))
        yield Finding("manifest", "ok" if people else "warn", f"{people} people in {config.identities}")

    told = guarded("manifest", read)
    return people, told


def _run(
    config: NightlyConfig, people: int, workers: int, cost_per_hour: float | None, measuring: bool
) -> Iterator[Finding]:
    from faceid_core.doctor.expectation import calibrate, expectation
    from faceid_core.doctor.machine import disk
    from faceid_core.plan.planning import plan_run

    planned = plan_run(config)
    pictures = len(planned.run.plan.grid.prompts) * config.generate.seeds
    yield from disk(config, people, planned.run.plan.crop_pixels, pictures)
    measure = calibrate if measuring else None
    yield from expectation(planned, workers=workers, cost_per_hour=cost_per_hour, measure=measure)
