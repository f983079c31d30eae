"""The Ray actors of one run: started, handed out one at a time, replaced when lost, more when the cluster grows."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from faceid_core.errors import ConfigurationError
from faceid_core.run.executor import Usage, WorkerClock
from faceid_core.stages.models import WorkerSettings
from tasks.ray_cluster import gpus_per_worker, threads_per_worker, workers_that_fit

log = logging.getLogger(__name__)

ACTOR_START_SECONDS = 180
_WARN_AFTER_SECONDS = 20.0  # of waiting for the first actors
_POLL_SECONDS = 1.0  # between two looks for free resources, while a batch waits for a worker
_MOST_FAILED_STARTS = 3


class Workers:
    """Long-lived actors in the present Ray session.

    Args:
        actor_class: what to start; takes settings and run id, answers `ready`.
        wanted: how many; 0 is as many as fit, now and later.
        with_gpu: whether they take a GPU where the settings' device asks for one; without, they are for the stages
            that need none.

    Raises:
        ConfigurationError: the wanted number does not fit into the cluster, or not even one.
    """

    def __init__(
        self, actor_class: Any, settings: WorkerSettings, run_id: str, *, wanted: int, with_gpu: bool = True
    ):
        self._class, self._run_id, self._wanted = actor_class, run_id, wanted
        self._gpus = gpus_per_worker(settings.device) if with_gpu else 0
        self._settings = replace(
            settings,
            threads=threads_per_worker(settings.threads, settings.device),
            device=settings.device if with_gpu else "cpu",
        )
        self._idle: queue.Queue = queue.Queue()
        self._clocks: dict[Any, WorkerClock] = {}  # of actors that are ready
        self._starting: dict[Any, Any] = {}  # pending answer of `ready` -> actor
        self._lock = threading.RLock()
        self._closed = False
        self._failed_starts = 0
        self._refilled_at = 0.0
        self._empty_since: float | None = None
        self.replaced = 0
        self._start_first()

    def acquire(self) -> Any | None:
        """Wait for an idle actor; None once the workers are closed.

        Raises:
            ConfigurationError: every actor was lost and no other fits into the cluster.
        """
        while not self._closed:
            with suppress(queue.Empty):
                return self._idle.get(timeout=_POLL_SECONDS)
            self._refill()
        return None

    def release(self, actor: Any) -> None:
        """Give back an actor that can work."""
        self._idle.put(actor)

    def working(self, actor: Any) -> AbstractContextManager[None]:
        """Count the time of a block as an actor's work."""
        clock = self._clocks.get(actor)
        return clock.working() if clock else nullcontext()

    def replace(self, actor: Any) -> None:
        """Kill an actor, so that it does not hold its CPUs, and start another where one fits."""
        self.replaced += 1
        self._kill(actor)
        if not self._closed:
            self._refill()

    def __len__(self) -> int:
        return len(self._clocks)

    def usage(self) -> Usage:
        """See `faceid_core.run.executor.Executor`."""
        with self._lock:
            return Usage(tuple(clock.idle for clock in self._clocks.values()), self.replaced)

    def close(self) -> None:
        """Kill every actor."""
        self._closed = True
        with self._lock:
            for actor in [*self._clocks, *self._starting.values()]:
                self._kill(actor)

    def _start_first(self) -> None:
        count = self._wanted or max(1, self._that_fit(ray.cluster_resources()))
        with self._lock:
            for _ in range(count):
                self._start()
            began, warned = time.monotonic(), False
            while self._starting and time.monotonic() - began < ACTOR_START_SECONDS:
                self._collect_ready(timeout=min(_POLL_SECONDS, ACTOR_START_SECONDS))
                if self._starting and not warned and time.monotonic() - began > _WARN_AFTER_SECONDS:
                    warned = True
                    log.warning(
                        "%d of %d workers are ready; waiting up to %d s for the others to find room and start",
                        len(self._clocks), count, ACTOR_START_SECONDS,
                    )  # fmt: skip
            if self._starting and (self._wanted or not self._clocks):
                raise ConfigurationError(self._do_not_fit(f"only {len(self._clocks)} of {count} workers"))
            for actor in list(self._starting.values()):
                self._kill(actor)

    def _refill(self) -> None:
        """Hand out actors that have become ready; start the wanted ones that fit into the cluster."""
        with self._lock:
            # Many batches may be waiting: one check serves them all.
            if self._closed or time.monotonic() - self._refilled_at < _POLL_SECONDS:
                return
            self._refilled_at = time.monotonic()
            self._collect_ready(timeout=0)
            # Not while some are starting: the resources that they will take still count as available.
            if not self._starting:
                fitting = self._that_fit(ray.available_resources())
                wanted = self._wanted - len(self._clocks) if self._wanted else fitting
                for _ in range(min(fitting, wanted)):
                    self._start()
            if self._clocks or self._starting:
                self._empty_since = None
                return
            self._empty_since = self._empty_since or time.monotonic()
            if time.monotonic() - self._empty_since > ACTOR_START_SECONDS:
                raise ConfigurationError(self._do_not_fit("every worker was lost, and no other"))

    def _that_fit(self, resources: Mapping[str, float]) -> int:
        return workers_that_fit(resources, *self._needs())

    def _needs(self) -> tuple[float, int]:
        """CPUs and GPUs of one actor."""
        return min(max(1, self._settings.threads), ray.cluster_resources().get("CPU", 1)), self._gpus

    def _start(self) -> None:
        cpus, gpus = self._needs()
        actor = self._class.options(num_cpus=cpus, num_gpus=gpus).remote(self._settings, self._run_id)
        self._starting[actor.ready.remote()] = actor

    def _collect_ready(self, *, timeout: float) -> None:
        """Hand out the actors that have become ready.

        Raises:
            ConfigurationError: one after another ends before it is ready.
        """
        if not self._starting:
            return
        ready, _ = ray.wait(list(self._starting), num_returns=len(self._starting), timeout=timeout)
        for answer in ready:
            actor = self._starting.pop(answer)
            try:
                ray.get(answer)
            except RayError as error:
                log.warning("a worker ended before it was ready: %s", str(error).splitlines()[0])
                self._failed_starts += 1
                if self._failed_starts >= _MOST_FAILED_STARTS and not self._clocks:
                    raise ConfigurationError(
                        f"{self._failed_starts} workers ended before they were ready: {error}"
                    ) from error
                continue
            self._failed_starts = 0
            self._clocks[actor] = WorkerClock()
            self._idle.put(actor)

    def _kill(self, actor: Any) -> None:
        with self._lock:
            self._clocks.pop(actor, None)
            self._starting = {answer: each for answer, each in self._starting.items() if each is not actor}
        with suppress(RayError, ValueError):  # dead already
            ray.kill(actor, no_restart=True)

    def _do_not_fit(self, who: str) -> str:
        has = ray.cluster_resources()
        return (
            f"{who} found room within {ACTOR_START_SECONDS} s: each asks for {self._settings.threads} CPUs, Ray has "
            f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs; "
            "lower execution.workers or execution.threads_per_worker"
        )
