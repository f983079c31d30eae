"""Runs a small run in a child process whose stores are faulty: calls fail, lie, or kill it as by SIGKILL."""

from __future__ import annotations

import json
import multiprocessing
import os
import traceback
from dataclasses import dataclass, replace

from faceid_core.config import NightlyConfig
from tests.helpers.faulty import KILLED, WRITES, Faults

__all__ = ["KILLED", "STEP_PLACES", "Ended", "night_in_a_child", "table_rows"]

_IMPORTED_ONCE = [
    "tests.helpers.killed", "torch", "diffusers", "transformers", "faceid_core.nightly", "deltalake", "duckdb",
    "faceid_core.diffusion.base", "faceid_core.tables", "faceid_core.run.open",
]  # fmt: skip
_CHILD_SECONDS = 300
STEP_PLACES = ("detect", "parse", "mask", "personalize", "generate", "score", "outcome reports", "pages", "tables")
# When and by which run a row was written, and how long it took, is no data.
_NOT_DATA = {
    "run_id", "run_date", "seconds", "started_at", "finished_at", "outcome", "attempts", "done", "cached",
    "workers", "workers_replaced", "worker_idle_mean", "worker_idle_most", "manifest_digest", "config_digest",
    "stage_results", "code_revision",
}  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, and what it saw if it lived to tell."""

    exit_code: int
    report: dict | None


def night_in_a_child(
    config: NightlyConfig,
    *,
    die_at: int | None = None,
    after: bool = False,
    faults: Faults | None = None,
    suffix: str | None = None,
) -> Ended:
    """Run a run to its end, or until its write number `die_at`, just before or just after it is carried out.

    The child is forked from a server that has imported the libraries, which costs seconds, and done nothing else:
    delta-rs's threads, which other tests of this process may have started, do not survive a fork.

    Args:
        config: the run's.
        die_at, after: the write at which it is killed, for a run with no other fault.
        faults: what goes wrong instead; lifted before the child reads what the run left.
        suffix: of the run's id, eight characters.
    """
    faults = replace(faults or Faults(calls=WRITES), **({"die_at": die_at, "after": after} if die_at else {}))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED_ONCE)
    ours, theirs = context.Pipe(duplex=False)
    # The server that forks keeps the environment of the first test that asked it.
    environment = {name: value for name, value in os.environ.items() if name.startswith(("FACEID_", "AWS_"))}
    child = context.Process(target=_child, args=(theirs, config, faults, suffix, environment))
    child.start()
    theirs.close()
    report = None
    if ours.poll(_CHILD_SECONDS):
        try:
            report = json.loads(ours.recv_bytes())
        except EOFError:  # it died without a word
            report = None
    child.join(_CHILD_SECONDS)
    if child.is_alive():
        child.kill()
        raise AssertionError(f"the child that was to meet {faults} hangs")
    return Ended(child.exitcode, report)


def _child(pipe, config: NightlyConfig, faults: Faults, suffix: str | None, environment: dict) -> None:
    from tests.helpers.faulty import break_stores

    os.environ.update(environment)
    try:
        count = break_stores(faults)
        report = _run(config, count, suffix)
        pipe.send_bytes(json.dumps(report).encode())
        code = 0
    except BaseException:
        traceback.print_exc()
        code = 1
    pipe.close()
    os._exit(code)  # pytest's own exit handlers are the parent's business


def _run(config: NightlyConfig, count, suffix: str | None) -> dict:
    from faceid_core.errors import FaceidError
    from faceid_core.nightly import drive_inline
    from faceid_core.run.open import open_run

    run = ended = None
    reporter = _step_the_clock(count.faults)
    report = {"error": None, "clear": True, "run_id": None, "exit_status": None}
    try:
        run = open_run(config, reporter, run_suffix=suffix)
        ended = drive_inline(run)
        report["exit_status"] = ended.exit_status
    except Exception as error:
        report |= {"error": f"{type(error).__name__}: {error}", "clear": isinstance(error, FaceidError)}
    count.lift()
    clock = getattr(reporter, "clock", None)
    report |= {"writes": count.seen, "met": dict(count.met), "clock": clock.seconds if clock else 0.0}
    return report if run is None else report | _left_by(run, ended)


def _step_the_clock(faults: Faults):
    """A reporter for a run whose wall clock is set at a place, if the faults say so."""
    from faceid_core.publish import publish
    from faceid_core.run.reporter import LogReporter
    from faceid_core.run.state import Run
    from faceid_core.tables import Tables
    from tests.helpers.stepped_clock import SteppedClock

    if not faults.step_at:
        return LogReporter()
    clock = SteppedClock().install()

    def step(place: str) -> None:
        if place == faults.step_at:
            clock.seconds = faults.step_seconds

    def stepping(owner, name: str, place: str) -> None:
        whole = getattr(owner, name)

        def stepped(*args, **more):
            step(place)
            return whole(*args, **more)

        setattr(owner, name, stepped)

    class SteppingReporter(LogReporter):
        def looked_up(self, stage: str, **counts: int) -> None:
            step(stage)
            super().looked_up(stage, **counts)

    stepping(Run, "finish", "outcome reports")
    stepping(publish, "write_pages", "pages")
    stepping(Tables, "publish", "tables")
    reporter = SteppingReporter()
    reporter.clock = clock
    return reporter


def _left_by(run, ended) -> dict:
    """What a run left in its store, read without faults."""
    from faceid_core.errors import DamagedInput
    from faceid_core.store import StageCache
    from faceid_core.tables import Tables

    contents, blobs = {}, {}
    for subject in run.subjects.values():
        cache = StageCache(run.store, subject.scope)
        for result, manifest in subject.manifests.items():
            contents[f"{subject.name} {result}"] = manifest.content
            for name in manifest.outputs:
                try:  # hashed on reading
                    blobs[f"{subject.name} {result} {name}"] = len(cache.read(manifest, name))
                except DamagedInput as damage:
                    blobs[f"{subject.name} {result} {name}"] = str(damage)
    return {
        "run_id": run.run_id,
        "lease_lost": run.lease.lost,
        "seconds": [row["seconds"] for row in Tables(run.store).read("runs").to_pylist()],
        "outcomes": {a.identity_id: str(a.outcome) for a in run.outcome_reports.values()},
        "reasons": {a.identity_id: f"{a.stage} {a.reason}: {a.message}" for a in run.outcome_reports.values()},
        "computed": dict(run.computed),
        "contents": contents,
        "blobs": blobs,
        "tables": table_rows(Tables(run.store), run.run_id),
        "index": len(run.store.get(ended.published.index)) if ended else 0,
    }


def table_rows(tables, run_id: str) -> dict[str, list[str]]:
    """The data columns of what readers see: rows that belong to no run, and of the others those of one run."""
    from data_contracts import NAMES, contract

    found = {}
    for name in NAMES:
        rows = tables.read(name)
        keep = [column for column in rows.column_names if column not in _NOT_DATA]
        picked = rows.to_pylist()
        if contract(name).per_run:
            picked = [row for row in picked if row["run_id"] == run_id]
        found[name] = sorted(
            json.dumps({column: row[column] for column in keep}, default=repr, sort_keys=True)
            for row in picked
        )
    return found
