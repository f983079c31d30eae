"""What a Ray actor reports through Ray's own metrics; Ray adds the labels of worker and node, and the prefix `ray_`."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager

from ray.util.metrics import Counter, Gauge, Histogram

from faceid_core.monitoring import STAGE_SECONDS
from faceid_core.stages.work import Done, pipeline_stage
from faceid_core.store.requests import REQUESTS


class WorkerMetrics:
    """The metrics of the actor in this process; they name stages and operations, never a person."""

    def __init__(self) -> None:
        # Whether, not how long: a batch may take an hour, and a counter would move at its end only.
        self._busy = Gauge("faceid_worker_busy", "1 while the worker computes, else 0.")
        self._seconds = Histogram(
            "faceid_worker_stage_seconds",
            "Seconds that a result took, by stage.",
            boundaries=list(STAGE_SECONDS),
            tag_keys=("stage",),
        )
        self._works = Counter(
            "faceid_worker_results",
            "Results that the worker ended, by stage and status.",
            tag_keys=("stage", "status"),
        )
        self._requests = Counter(
            "faceid_worker_store_requests",
            "Requests of the worker to the store, by operation and outcome.",
            tag_keys=("operation", "outcome"),
        )
        self._memory = Gauge(
            "faceid_worker_gpu_memory_bytes",
            "GPU memory of the worker by PyTorch: allocated to tensors, reserved from the device, peak of allocated.",
            tag_keys=("kind",),
        )
        self._reported: dict[tuple[str, str], int] = {}
        self._busy.set(0)

    @contextmanager
    def working(self) -> Generator[None]:
        """Show the worker as busy for a block, and report what it asked of the store at its end."""
        self._busy.set(1)
        try:
            yield
        finally:
            self._busy.set(0)
            self.sample()

    def ended(self, done: Done) -> None:
        """Count a result."""
        stage = pipeline_stage(done.work.call.stage)
        self._works.inc(1, {"stage": stage, "status": done.status})
        if done.status in ("done", "rejected"):
            self._seconds.observe(done.seconds, {"stage": stage})

    def sample(self) -> None:
        """Report GPU memory and the store's requests as they are now."""
        for key, count in REQUESTS.snapshot().items():
            if more := count - self._reported.get(key, 0):
                self._requests.inc(more, {"operation": key[0], "outcome": key[1]})
                self._reported[key] = count
        torch = sys.modules.get("torch")  # a worker that has not computed has no need of it
        if torch is None or not torch.cuda.is_initialized():
            return
        for kind, value in (
            ("allocated", torch.cuda.memory_allocated()),
            ("reserved", torch.cuda.memory_reserved()),
            ("peak", torch.cuda.max_memory_allocated()),
        ):
            self._memory.set(value, {"kind": kind})
