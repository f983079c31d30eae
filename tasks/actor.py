"""The Ray actor: a worker that lives as long as the run, holds the models and streams its progress."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import ray

from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.work import Work

TICK_SECONDS = 0.5
_END = object()


def _import_models() -> None:
    """Import the model libraries, which takes seconds; whatever is wrong with them shows at the first work."""
    with suppress(Exception):
        import_module("faceid_core.diffusion.base")


@ray.remote(max_restarts=0, max_task_retries=0)
class StageActor:
    """Serves every stage from one process. Retries are the pool's business, so Ray does none."""

    def __init__(self, settings: WorkerSettings, run_id: str):
        from faceid_core.stages.worker import Worker

        self._worker = Worker(settings, run_id)
        # Imported while the pool still starts; works wait for it, since two threads must not import these at once.
        self._imports = threading.Thread(target=_import_models, daemon=True)
        self._imports.start()

    def ready(self) -> bool:
        """Answer once the process is up."""
        return True

    def execute(self, works: Sequence[Work]) -> Iterator[tuple[str, Any]]:
        """Stream ('tick', (subject, done, total)) and ('done', Done) until all works have their outcome.

        The stage runs in a thread, so that ticks leave while it computes; names and digests leave, never pixels.
        """
        events: queue.Queue = queue.Queue()
        thread = threading.Thread(target=self._run, args=(works, events), daemon=True)
        thread.start()
        while (event := events.get()) is not _END:
            yield event
        thread.join()

    def _run(self, works: Sequence[Work], events: queue.Queue) -> None:
        import time

        last = 0.0

        def tick(subject: str, done: int, total: int) -> None:
            nonlocal last
            if done == total or time.monotonic() - last > TICK_SECONDS:
                last = time.monotonic()
                events.put(("tick", (subject, done, total)))

        try:
            self._imports.join()
            for done in self._worker.execute(works, tick):
                events.put(("done", done))
        except BaseException as error:
            events.put(("broken", f"{type(error).__name__}: {error}"))
        finally:
            events.put(_END)
