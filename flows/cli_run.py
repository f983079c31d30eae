"""faceid run: the nightly job from the command line."""

from __future__ import annotations

import os
from operator import attrgetter

import click
from rich.console import Console

from faceid_core.config import NightlyConfig
from faceid_core.errors import AlreadyRun
from faceid_core.private import without_credentials
from flows.display import is_logged
from flows.options import RUN_KEYS, takes_config
from flows.prefect_auth import secure_own_server
from flows.prefect_server import configured_server, require_may_start_server
from flows.stopping import slow_to_leave, watched


# Runs are imported in the functions: help and dry runs must not load deltalake, pandas, Prefect or Ray.
@click.command()
@takes_config(*RUN_KEYS, "run.date")
@click.option("--dry-run", is_flag=True, help="Show what is cached and what would be computed, and stop.")
def run(config: NightlyConfig, dry_run: bool) -> None:
    """Photos go in; learned tokens, scored images, tables and a report come out. Results are cached in the store:
    running again computes only what changed.

    \b
    Examples:
      faceid run                          the sample people of the miniature
      faceid run --config run.yaml --dry-run
      faceid run --config run.yaml --only ann --force --from-stage generate
      faceid run --config run.yaml --run-date 2026-11-20   (one that was missed)
      faceid run --set generate.seeds=2 --set "score.metrics=[identity, leakage]"

    Exit status: 0 complete, 1 a bug, 2 more failures than run.max_failed_share, 3 configuration, 130 interrupted.
    """
    console = Console(highlight=False)
    if dry_run:
        from faceid_core.plan.planning import plan_run
        from flows.cli_plan import print_plan

        print_plan(plan_run(config), console)
        return
    from faceid_core.publish.run_summary import identity_rows, remarks, summary_line
    from flows.console import ConsoleReporter, final_table

    try:
        with watched(), ConsoleReporter(console) as reporter:
            run, finished = start_run(config, reporter)
    except AlreadyRun as complete:
        console.print(str(complete), soft_wrap=True, markup=False)
        return
    name = attrgetter("identity_key" if is_logged() else "identity_id")
    console.print(final_table(identity_rows(run, finished.published, name)))
    for remark in remarks(run, name):
        console.print(remark, style="yellow", markup=False, soft_wrap=True)
    for name, message in run.failures_common.items():
        console.print(f"{name}: {message}", style="yellow", markup=False, soft_wrap=True)
    comes_to = summary_line(finished.published.overall)
    if comes_to:
        console.print(comes_to, soft_wrap=True)
    console.print(finished.published.sentence, soft_wrap=True)
    if verdict := finished.published.verdict.sentence:
        console.print(verdict, soft_wrap=True, markup=False)
    for what, where in finished.published.places.items():
        console.print(f"{what:<8} {where}", soft_wrap=True)
    raise click.exceptions.Exit(finished.exit_status)


def start_run(config: NightlyConfig, reporter):
    """Execute a run with the configured executor; returns the run and how it ended."""
    if config.log.format == "json":
        from faceid_core.log_lines import write_json_lines
        from faceid_core.run.reporter import LogReporter

        write_json_lines()
        reporter = LogReporter(reporter)
    if config.execution.executor == "inline":
        from faceid_core.nightly import drive_inline
        from faceid_core.run.open import open_run

        run = open_run(config, reporter)
        return run, drive_inline(run)
    reporter.note(_prefect_settings())
    slow_to_leave("Prefect and Ray")
    from flows.nightly import run_with_prefect

    return run_with_prefect(config, reporter)


def _prefect_settings() -> str:
    """Set Prefect up for a run from a terminal, before it is imported; returns which server is used.

    Raises:
        ConfigurationError: no server is named, and none may be started.
    """
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "ERROR")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")

    url = configured_server()
    if url:
        return f"Prefect server {without_credentials(url)}"
    require_may_start_server()
    secure_own_server()
    return "starting a Prefect server for this run (set PREFECT_API_URL to use yours)"
