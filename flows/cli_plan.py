"""faceid plan and faceid explain: what a run would compute and why, and why a result was computed again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from faceid_core.config import NightlyConfig
from faceid_core.config.parse import changed
from flows.options import config_options

if TYPE_CHECKING:
    from faceid_core.plan.planning import RunPlan

_PEOPLE_TOLD = 20


@click.command(short_help="What a run would compute, and why.")
@click.argument("manifest", required=False)
@click.option(
    "--cost-per-hour",
    type=click.FloatRange(0),
    help="Price of one worker for an hour, in any currency: adds the expected cost.",
)
@click.option("--people", is_flag=True, help="Also a line per person: the first stage to compute, and why.")
@click.option("--format", "kind", type=click.Choice(["text", "json"]), default="text", show_default=True)
@config_options
def plan(
    config: NightlyConfig, manifest: str | None, cost_per_hour: float | None, people: bool, kind: str
) -> None:
    """Say what of a run over MANIFEST is cached, what will be computed and why, how long it takes and costs.

    Reads the store, the manifest and the photos; writes nothing and loads no model. The configuration is the run's:
    the same file and options as for faceid run. Times are those of earlier results in this store.
    """
    from faceid_core.plan.planning import plan_run

    if manifest:
        config = changed(config, {"identities": manifest}, source="MANIFEST")
    found = plan_run(config)
    if kind == "json":
        click.echo(json.dumps(_record(found, cost_per_hour), indent=2))
        return
    tell(found, Console(highlight=False), cost_per_hour=cost_per_hour, people=people)


def tell(
    found: RunPlan, console: Console, *, cost_per_hour: float | None = None, people: bool = False
) -> None:
    """Print a plan.

    Args:
        cost_per_hour: of one worker; None leaves the cost out.
        people: also a line per person.
    """
    from faceid_core.run.admission import shared_photos

    common = len(found.run.subjects) - len(found.run.accounts)
    console.print(f"{len(found.run.accounts)} identities, {common} for floor and ceiling")
    table = Table("stage", "cached", "to compute", "wait for an earlier stage", "expected", box=None)
    for row in found.stages:
        waiting = sum(row.waiting.values())
        seconds = found.estimate.seconds.get(row.stage)
        expected = "" if seconds is None else f"at most {duration(seconds)}"
        table.add_row(row.stage, str(row.cached), str(len(row.misses)), str(waiting or ""), expected)
    console.print(table)
    for row in found.stages:
        for why, count in row.reasons():
            console.print(f"{row.stage}: {count} because: {why}", soft_wrap=True, markup=False)
    for line in _sums(found, cost_per_hour):
        console.print(line, soft_wrap=True, markup=False)
    if shared := shared_photos(found.run.accounts, found.run.subjects, lambda account: account.identity_id):
        console.print(shared, soft_wrap=True, markup=False)
    closed = [account for account in found.run.accounts.values() if not account.alive]
    told = closed if people else closed[:_PEOPLE_TOLD]
    for account in told:
        missing = account.reason == "photo_missing"
        where = f" Looked for: {found.looked_for(account.identity_key)}" if missing else ""
        line = f"{account.identity_id}: {account.outcome}: {account.message}{where}"
        console.print(line, soft_wrap=True, markup=False)
    if len(closed) > len(told):
        console.print(f"and {len(closed) - len(told)} more who are rejected or refused (--people lists them)")
    if people:
        for account in found.run.accounts.values():
            if account.alive and (why := found.why_of(account.identity_key)):
                console.print(f"{account.identity_id}: {why[0]}: {why[1]}", soft_wrap=True, markup=False)


def _sums(found: RunPlan, cost_per_hour: float | None) -> list[str]:
    estimate = found.estimate
    if not any(row.misses or row.waiting for row in found.stages):
        return ["everything is cached: nothing would be computed"]
    lines = []
    if estimate.seconds:
        line = f"expected: at most {duration(estimate.worker_seconds)} of one worker's time"
        if estimate.workers > 1:
            line += f", {duration(estimate.wall_seconds)} on {estimate.workers} workers"
        if cost_per_hour is not None:
            line += f", cost at most {estimate.worker_seconds / 3600 * cost_per_hour:.2f}"
        samples = sum(estimate.samples.values())
        lines.append(f"{line} (from {samples} earlier results in this store)")
    if estimate.unknown:
        lines.append(f"no earlier result says how long these take: {', '.join(estimate.unknown)}")
    return lines


def _record(found: RunPlan, cost_per_hour: float | None) -> dict:
    estimate = found.estimate
    hours = estimate.worker_seconds / 3600
    return {
        "identities": len(found.run.accounts),
        "common": len(found.run.subjects) - len(found.run.accounts),
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
            for a in found.run.accounts.values()
            if not a.alive
        ],
        "workers": estimate.workers,
        "worker_seconds": estimate.worker_seconds,
        "wall_seconds": estimate.wall_seconds,
        "cost": None if cost_per_hour is None else hours * cost_per_hour,
        "unknown": list(estimate.unknown),
    }


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


@click.command(short_help="Why a stage of a person was computed again.")
@click.argument("identity_id", metavar="IDENTITY")
@click.argument("stage")
@click.option(
    "--planned",
    is_flag=True,
    help="Compare the newest result with what the configuration would compute now, not with the one before.",
)
@config_options
def explain(config: NightlyConfig, identity_id: str, stage: str, planned: bool) -> None:
    """Say which leaf of the key of STAGE changed from what to what, for IDENTITY.

    Compares the two newest results; where there is one only, or with --planned, the newest with what a run with this
    configuration would compute. STAGE is detect, parse, mask, personalize, generate, score-METRIC or, for the class
    word's pictures compared with the person's photo, floor_score-METRIC.
    """
    from faceid_core.plan.explain import explain as explain_stage

    console = Console(highlight=False)
    for line in explain_stage(config, identity_id, stage, planned=planned).lines():
        console.print(line, soft_wrap=True, markup=False)
