"""Prefect and Ray alone, in a process of its own: `python -m tests.benchmarks.scale_orchestration CONFIG` prints JSON.

A whole run from nothing by the ordinary flow, with a Prefect server and a Ray of its own. Only the workers are others:
they compute nothing and commit made-up results at once (`pretend_store`). So what is counted and timed is the driver's,
the server's and the pool's part. The server's database is counted when the run is over.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceid_core.config import load_config
from faceid_core.run.reporter import LogReporter
from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.work import Done, Work
from faceid_core.store import open_store
from flows.cli_run import start_run
from flows.local_network import bind_ray_to_loopback
from tests.helpers.pretend_night import commit

from .child import peak_bytes, store_requests
from .pretend_store import ManifestsAlone, outputs_of

if TYPE_CHECKING:  # loads ray
    from tasks.fitness import Fitness

# Tables of Prefect's database that grow with a run.
TABLES = (
    "flow_run",
    "task_run",
    "flow_run_state",
    "task_run_state",
    "artifact",
    "log",
    "events",
    "event_resources",
)
_LOOK_SECONDS = 0.05


class PretendWorker:
    """Stands in for the worker of a Ray actor: every work is done at once."""

    def __init__(self, settings: WorkerSettings, run_id: str):
        os.fsync = lambda _: None
        self._store, self._run_id = ManifestsAlone(open_store(settings.store, settings.s3)), run_id

    def ready(self, probe: Any) -> Fitness:
        """See StageActor."""
        from tasks.fitness import Fitness

        return Fitness()

    def execute(self, works: Sequence[Work], carrier: Mapping[str, str]) -> Iterator[tuple[str, Done]]:
        """See StageActor."""
        for work in works:
            commit(self._store, work, outputs_of(work), self._run_id)
            yield ("done", Done(work, "done", seconds=0.1))


class Threads:
    """The largest number of threads of this process while a block lasts."""

    def __enter__(self) -> Threads:
        self.most, self._over = threading.active_count(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            self.most = max(self.most, threading.active_count())


def orchestrate(config_file: Path) -> dict[str, Any]:
    """Run it; what it took and how many rows Prefect has of it."""
    from faceid_core.publish import publish as publication

    from .scale_publication import write_records_of_pages

    publication.write_pages = write_records_of_pages
    bind_ray_to_loopback(os.environ, "")
    import ray

    from tasks import pool

    class PretendPool(pool.RayPool):
        actor_class = ray.remote(max_restarts=0, max_task_retries=0)(PretendWorker)
        calls = 0

        def _events(self, *arguments: Any) -> Iterator[Any]:
            PretendPool.calls += 1
            return super()._events(*arguments)

    pool.RayPool = PretendPool
    began, processor = time.monotonic(), time.process_time()
    with Threads() as threads:
        run, finished = start_run(load_config(config_file, {"execution.executor": "ray"}), LogReporter())
    assert finished.exit_status == 0, finished.published.sentence
    return {
        "people": len(run.outcome_reports),
        "seconds": time.monotonic() - began,
        "processor_seconds": time.process_time() - processor,
        "mebibytes": (peak_bytes() or 0) / 2**20,
        "requests": store_requests(),
        "threads": threads.most,
        "ray_tasks": PretendPool.calls,
        **_of_database(Path(os.environ["PREFECT_HOME"]) / "prefect.db"),
    }


def _of_database(file: Path) -> dict[str, int]:
    with closing(sqlite3.connect(file)) as connection:
        rows = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TABLES}
    size = sum(each.stat().st_size for each in file.parent.glob(f"{file.name}*"))
    return {**rows, "database_bytes": size}


if __name__ == "__main__":
    print(json.dumps(orchestrate(Path(sys.argv[1]))))
