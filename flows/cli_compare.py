"""faceid compare: two runs over the same people, photos and prompts, and an exit status that a rollout can obey."""

from __future__ import annotations

import json

import click

from faceid_core.config import NightlyConfig
from faceid_core.outcomes import EXIT_WORSE
from flows.options import takes_config

_MOST_NAMED = 20  # people who are worse


@click.command()
@click.argument("first", default="previous")
@click.argument("second", default="latest")
@takes_config("store")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(first: str, second: str, config: NightlyConfig, as_json: bool) -> None:
    """FIRST (default: previous, the last complete run of the same name) and SECOND (default: latest) are run ids, names,
    dates, `latest`, `previous`, or `current`, the promoted run. Compared are people who have the same photo in both
    runs, over the same prompts and seeds.

    Exit status 4: a figure is beyond its threshold (`gate.identity`, `gate.concepts`, `gate.weak`) with an interval that
    excludes 0. Fewer people than `gate.people` are too few to judge.

    \b
    Example:
      faceid compare previous latest --set gate.identity=-0.05
    """
    from faceid_core.publish.earlier_runs import find_run
    from faceid_core.publish.gate import compare_runs
    from faceid_core.run.store_access import open_existing
    from faceid_core.tables import Tables

    tables = Tables(open_existing(config))
    later = find_run(tables, second)
    found = compare_runs(tables, find_run(tables, first, beside=later), later, config.gate)
    if as_json:
        rows = [each.__dict__ for each in found.differences]
        moved = {name: [each.__dict__ for each in getattr(found, name)] for name in ("worse", "better")}
        click.echo(
            json.dumps(found.__dict__ | moved | {"differences": rows, "fails": found.fails}, indent=2)
        )
    else:
        _print(found, config)
    if found.fails:
        raise click.exceptions.Exit(EXIT_WORSE)


def _print(found, config: NightlyConfig) -> None:
    from rich.console import Console
    from rich.table import Table

    from faceid_core.report.comparison_page import OTHER_GRID

    console = Console(highlight=False)
    console.print(
        f"{found.first} to {found.second}: {found.people} people in both", soft_wrap=True, markup=False
    )
    table = Table("figure", "people", "difference", "95 % interval", "detectable", "threshold", "")
    for each in found.differences:
        shown = ["", "", ""]
        if each.mean is not None:
            least = "" if each.detectable is None else f"{each.detectable:.3f}"
            shown = [f"{each.mean:+.3f}", f"{each.low:+.3f} to {each.high:+.3f}", least]
        table.add_row(
            each.figure, str(each.people), *shown, f"{each.limit:+.3f}", each.verdict
        )
    console.print(table)
    for each in found.worse[:_MOST_NAMED]:
        console.print(
            f"worse: {each.identity_id}: {each.difference:+.3f} (p = {each.p:.2g}, corrected for the "
            f"{each.compared} people whose scores differ)",
            markup=False,
        )
    if len(found.worse) > _MOST_NAMED:
        console.print(f"and {len(found.worse) - _MOST_NAMED} more that are worse (--json lists them)")
    if found.other_grid:
        console.print(OTHER_GRID, soft_wrap=True)
    if found.too_few:
        console.print(
            f"{found.people} people in both runs are too few to judge; gate.people asks for {config.gate.people}",
            soft_wrap=True,
        )


@click.command()
@click.argument("run_id", metavar="RUN")
@takes_config("store")
def promote(run_id: str, config: NightlyConfig) -> None:
    """RUN (a run id, name, date, `latest` or `previous`) becomes the current run of its name, whatever the gate says: the
    views `current` and `current_runs` of faceid query show it, and faceid gc keeps its results. A nightly run does so by
    itself as `gate.promote` says.
    """
    from faceid_core.publish.earlier_runs import find_run
    from faceid_core.run.store_access import open_existing
    from faceid_core.tables import Tables
    from faceid_core.tables.promoted import promote as promote_run

    store = open_existing(config)
    tables = Tables(store)
    wanted = find_run(tables, run_id)
    name = next(row["name"] for row in tables.read("runs").to_pylist() if row["run_id"] == wanted)
    before = tables.promoted().get(name)
    while not promote_run(store, name, wanted, in_place_of=before):
        before = tables.promoted().get(name)
    click.echo(f"current {name}: {wanted}" + (f", in place of {before}" if before not in (None, wanted) else ""))
