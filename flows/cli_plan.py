"""faceid plan and faceid explain: what a run would compute and why, and why a result was computed again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from faceid_core.config import NightlyConfig, changed
from faceid_core.report.figures import duration
from flows.options import RUN_KEYS, takes_config

if TYPE_CHECKING:
    from rich.console import Console

    from faceid_core.plan.estimate import Estimate
    from faceid_core.plan.planning import RunPlan

_MOST_CLOSED = 20  # identities without work that are listed


@click.command()
@click.argument("manifest", required=False)
@takes_config(*RUN_KEYS)
@click.option(
    "--cost-per-hour",
    type=click.FloatRange(0),
    help="Price of one worker for an hour, in any currency: adds the expected cost.",
)
@click.option("--people", is_flag=True, help="Also a line per identity: its first stage to compute, and why.")
@click.option("--format", "kind", type=click.Choice(["text", "json"]), default="text", show_default=True)
def plan(
    config: NightlyConfig, manifest: str | None, cost_per_hour: float | None, people: bool, kind: str
) -> None:
    """The plan says what is cached, what would be computed and why, how long that takes and what it costs. MANIFEST
    stands for --identities. Give the same file and options as to faceid run.

    Planning reads the store, the manifest and the photos; it writes nothing and loads no model. Times are those of
    earlier results in this store.

    \b
    Examples:
      faceid plan people/identities.csv --config run.yaml --cost-per-hour 2.50
      faceid plan --config run.yaml --set generate.steps=20 --people
    """
    from rich.console import Console

    from faceid_core.plan.planning import plan_run
    from flows.console import StatusLine

    if manifest:
        config = changed(config, {"identities": manifest}, source="MANIFEST")
    with StatusLine() as status:
        found = plan_run(config, status)
    if kind == "json":
        click.echo(json.dumps(_record(found, cost_per_hour), indent=2))
        return
    print_plan(found, Console(highlight=False), cost_per_hour=cost_per_hour, people=people)


def print_plan(
    found: RunPlan, console: Console, *, cost_per_hour: float | None = None, people: bool = False
) -> None:
    """Print a plan.

    Args:
        cost_per_hour: of one worker; None leaves the cost out.
        people: also a line per identity.
    """
    from rich.table import Table

    from faceid_core.run.admission import shared_photos
    from faceid_core.run.dated import complete_run_of_date

    common = len(found.run.subjects) - len(found.run.outcome_reports)
    console.print(f"{len(found.run.outcome_reports)} identities, {common} for floor and ceiling")
    table = Table("stage", "cached", "to compute", "wait for an earlier stage", "expected", box=None)
    for row in found.stages:
        waiting = sum(row.waiting.values())
        seconds = found.estimate.seconds.get(row.stage)
        expected = "" if seconds is None else f"about {duration(seconds)}"
        table.add_row(row.stage, str(row.cached), str(len(row.misses)), str(waiting or ""), expected)
    console.print(table)
    for row in found.stages:
        for why, count in row.reasons():
            console.print(f"{row.stage}: {count} because: {why}", soft_wrap=True, markup=False)
    if about := found.about_prior():
        console.print(about, soft_wrap=True, markup=False)
    for line in _sums(found, cost_per_hour):
        console.print(line, soft_wrap=True, markup=False)
    reports = found.run.outcome_reports
    shared = shared_photos(reports, found.run.subjects, lambda each: each.identity_id)
    complete = complete_run_of_date(found.run)
    of_date = f"run {complete} of this date is complete: nothing would be done" if complete else ""
    for about in filter(None, (of_date, found.run.left_out, shared)):
        console.print(about, soft_wrap=True, markup=False)
    closed = [each for each in reports.values() if not each.alive]
    listed = closed if people else closed[:_MOST_CLOSED]
    for outcome_report in listed:
        missing = outcome_report.reason == "photo_missing"
        where = f" Looked for: {found.looked_for(outcome_report.identity_key)}" if missing else ""
        line = f"{outcome_report.identity_id}: {outcome_report.outcome}: {outcome_report.message}{where}"
        console.print(line, soft_wrap=True, markup=False)
    if len(closed) > len(listed):
        console.print(
            f"and {len(closed) - len(listed)} more that are rejected or refused (--people lists them)"
        )
    if people:
        for outcome_report in found.run.outcome_reports.values():
            if outcome_report.alive and (why := found.why_of(outcome_report.identity_key)):
                console.print(f"{outcome_report.identity_id}: {why[0]}: {why[1]}", soft_wrap=True, markup=False)


def _sums(found: RunPlan, cost_per_hour: float | None) -> list[str]:
    estimate = found.estimate
    if not any(row.misses or row.waiting for row in found.stages):
        return ["everything is cached: nothing would be computed"]
    lines = []
    if estimate.seconds:
        bound = "at least" if estimate.unknown else "about"
        line = f"expected: {bound} {duration(estimate.worker_seconds)} of one worker's time"
        low, high = duration(estimate.quick), duration(estimate.slow)
        if low != high:
            line += f" ({low} to {high})"
        if estimate.workers > 1:
            line += f", {duration(estimate.wall_seconds)} on {estimate.workers} workers"
        if cost_per_hour is not None:
            line += f", cost {bound} {estimate.worker_seconds / 3600 * cost_per_hour:.2f}"
        lines.append(f"{line}; {_source(estimate)}")
    if estimate.unknown:
        lines.append(
            f"unknown, and not in these sums: no earlier result says how long {', '.join(estimate.unknown)} takes"
        )
    return lines


def _source(estimate: Estimate) -> str:
    """Where an estimate comes from."""
    source = f"by the medians of {sum(estimate.samples.values())} earlier results"
    if estimate.runs:
        source += f" of {estimate.runs[0]}"
    if len(estimate.runs) > 1:
        source += f" and {len(estimate.runs) - 1} earlier runs"
    return source


def _record(found: RunPlan, cost_per_hour: float | None) -> dict:
    estimate = found.estimate
    hours = estimate.worker_seconds / 3600
    return {
        "identities": len(found.run.outcome_reports),
        "common": len(found.run.subjects) - len(found.run.outcome_reports),
        "stages": [
            {
                "stage": row.stage,
                "cached": row.cached,
                "to_compute": len(row.misses),
                "waiting": sum(row.waiting.values()),
                "why": dict(row.reasons()),
                "expected_seconds": estimate.seconds.get(row.stage),
            }
            for row in found.stages
        ],
        "closed": [
            {"identity_key": a.identity_key, "outcome": str(a.outcome), "reason": a.reason}
            for a in found.run.outcome_reports.values()
            if not a.alive
        ],
        "workers": estimate.workers,
        "worker_seconds": estimate.worker_seconds,
        "worker_seconds_quartiles": [estimate.quick, estimate.slow],
        "wall_seconds": estimate.wall_seconds,
        "cost": None if cost_per_hour is None else hours * cost_per_hour,
        "unknown": list(estimate.unknown),
        "estimated_from_runs": list(estimate.runs),
    }


@click.command()
@click.argument("identity_id", metavar="IDENTITY")
@click.argument("stage")
@takes_config(*RUN_KEYS)
@click.option(
    "--planned",
    is_flag=True,
    help="Compare the newest result with what the configuration would compute now, not with the one before.",
)
def explain(config: NightlyConfig, identity_id: str, stage: str, planned: bool) -> None:
    """The two newest results of STAGE for IDENTITY are compared: which part of the stage key changed, from what to
    what. If there is only one result, or with --planned, the newest is compared with what a run with this
    configuration would compute.

    STAGE is detect, parse, mask, personalize, generate, score-METRIC or, for the floor (the class word's images
    compared with the photo of the identity), floor_score-METRIC.

    \b
    Example:
      faceid explain ann personalize --config run.yaml
    """
    from rich.console import Console

    from faceid_core.plan.explain import explain as explain_stage

    console = Console(highlight=False)
    for line in explain_stage(config, identity_id, stage, planned=planned).lines():
        console.print(line, soft_wrap=True, markup=False)
