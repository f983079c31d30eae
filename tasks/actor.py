"""The Ray actor: a worker that lives as long as the run, holds the models and streams progress and outcomes."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Literal

import ray

from faceid_core.log_lines import write_json_lines
from faceid_core.run.tracing import continued, start_tracing, traced
from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.work import Work
from faceid_core.stages.worker import Worker
from tasks.fitness import Fitness, fitness
from tasks.shared_folder import Probe
from tasks.worker_metrics import WorkerMetrics

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.5
_END = object()

# What a batch streams: ("progress", (subject, done, total)), ("done", Done), or ("broken", the error as text).
Event = tuple[Literal["progress", "done", "broken"], Any]


def _import_models() -> None:
    """Import the model libraries, which takes seconds; an error in them shows at the first work."""
    with suppress(Exception):
        import_module("faceid_core.diffusion.base")


@ray.remote(max_restarts=0, max_task_retries=0)
class StageActor:
    """Executes every stage in one process. The pool retries, so Ray does not."""

    def __init__(self, settings: WorkerSettings, run_id: str):
        if settings.log_format == "json":
            write_json_lines(run_id)
        start_tracing(log.warning)
        self._worker, self._run_id, self._device = Worker(settings, run_id), run_id, settings.device
        self._metrics = WorkerMetrics()
        # Imported while the pool still starts. Works wait for it: two threads must not import these at once.
        self._imports = threading.Thread(target=_import_models, daemon=True)
        self._imports.start()

    def ready(self, probe: Probe | None) -> Fitness:
        """Answer once the process is up, with what is wrong on its node; one with a GPU has imported torch then."""
        if ray.get_gpu_ids():
            self._imports.join()
        return fitness(probe, self._device)

    def execute(self, works: Sequence[Work], carrier: Mapping[str, str]) -> Iterator[Event]:
        """Stream events until all works have their outcome; they carry names and digests, never pixels.

        The stage runs in a thread, so that progress is streamed while it computes.

        Args:
            works: Of one stage.
            carrier: The driver's span (`traceparent`), for those of the works.
        """
        events: queue.Queue = queue.Queue()
        thread = threading.Thread(target=self._run, args=(works, carrier, events), daemon=True)
        thread.start()
        while (event := events.get()) is not _END:
            yield event
        thread.join()

    def _run(self, works: Sequence[Work], carrier: Mapping[str, str], events: queue.Queue) -> None:
        last = 0.0

        def on_progress(subject: str, done: int, total: int | None) -> None:
            nonlocal last
            if done == total or time.monotonic() - last > PROGRESS_SECONDS:
                last = time.monotonic()
                self._metrics.sample()
                events.put(("progress", (subject, done, total)))

        try:
            self._imports.join()
            with self._metrics.working(), continued(carrier):
                for done in traced(self._worker.execute, works, on_progress, self._run_id):
                    self._metrics.ended(done)
                    events.put(("done", done))
        except BaseException as error:
            events.put(("broken", f"{type(error).__name__}: {error}"))
        finally:
            events.put(_END)
