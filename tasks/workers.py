"""The Ray actors of one run: started, handed out one at a time, replaced when lost, more when the cluster grows."""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import RayError

from faceid_core.config import cluster_address
from faceid_core.errors import ConfigurationError
from faceid_core.run.executor import Clock, Usage
from faceid_core.stages.models import WorkerSettings

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 200_000_000  # only names and digests pass through Ray
ACTOR_START_SECONDS = 180
REACH_SECONDS = (
    20.0  # for a cluster's head to take a connection; one that is just being started may need some
)
JOIN_SECONDS = 60.0  # for a head that takes connections to let this process in
LOCAL_START_SECONDS = 180.0  # for Ray to start on this machine, beside whatever else it is at
_SAY_SECONDS = 20.0  # of waiting in silence
_LOOK_SECONDS = 1.0  # between two looks for room, while a batch waits for a worker
_MOST_FAILED_STARTS = 3


class Workers:
    """Long-lived actors in the present Ray session.

    Args:
        actor_class: what to start; takes settings and run id, answers `ready`.
        wanted: how many; 0 is as many as there is room for, now and later.
        with_gpu: whether they take a GPU where the settings' device asks for one; without, they are for the stages
            that need none.

    Raises:
        ConfigurationError: there is no room for the number wanted, or for a single one.
    """

    def __init__(
        self, actor_class: Any, settings: WorkerSettings, run_id: str, *, wanted: int, with_gpu: bool = True
    ):
        self._class, self._run_id, self._wanted = actor_class, run_id, wanted
        self._gpus = gpus_of_a_worker(settings.device) if with_gpu else 0
        self._settings = replace(
            settings,
            threads=threads_of_a_worker(settings.threads, settings.device),
            device=settings.device if with_gpu else "cpu",
        )
        self._idle: queue.Queue = queue.Queue()
        self._clocks: dict[Any, Clock] = {}  # of actors that are ready
        self._starting: dict[Any, Any] = {}  # the answer awaited -> actor
        self._lock = threading.RLock()
        self._closed = False
        self._failed_starts = 0
        self._looked_at = 0.0
        self._nobody_since: float | None = None
        self.replaced = 0
        self._start_first()

    def take(self) -> Any | None:
        """Wait for an idle actor; None once the workers are closed.

        Raises:
            ConfigurationError: every actor was lost and no other finds room.
        """
        while not self._closed:
            with suppress(queue.Empty):
                return self._idle.get(timeout=_LOOK_SECONDS)
            self._look_around()
        return None

    def give(self, actor: Any) -> None:
        """Give back an actor that is fit for work."""
        self._idle.put(actor)

    def working(self, actor: Any):
        """A block in which an actor counts as working."""
        clock = self._clocks.get(actor)
        return clock.working() if clock else nullcontext()

    def replace(self, actor: Any) -> None:
        """Kill an actor for certain, so that it cannot hold its CPUs; another comes where there is room."""
        self.replaced += 1
        self._kill(actor)
        if not self._closed:
            self._look_around()

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
        count = self._wanted or max(1, self._room(ray.cluster_resources()))
        with self._lock:
            for _ in range(count):
                self._start()
            began, told = time.monotonic(), False
            while self._starting and time.monotonic() - began < ACTOR_START_SECONDS:
                self._welcome(timeout=min(_LOOK_SECONDS, ACTOR_START_SECONDS))
                if self._starting and not told and time.monotonic() - began > _SAY_SECONDS:
                    told = True
                    log.warning(
                        "%d of %d workers are ready; waiting up to %d s for the others to find room and start",
                        len(self._clocks), count, ACTOR_START_SECONDS,
                    )  # fmt: skip
            if self._starting and (self._wanted or not self._clocks):
                raise ConfigurationError(self._no_room(f"only {len(self._clocks)} of {count} workers"))
            for actor in list(self._starting.values()):
                self._kill(actor)

    def _look_around(self) -> None:
        """Take in actors that are ready by now; start those that are wanted and for which there is room."""
        with self._lock:
            # Many batches may be waiting: one look serves them all.
            if self._closed or time.monotonic() - self._looked_at < _LOOK_SECONDS:
                return
            self._looked_at = time.monotonic()
            self._welcome(timeout=0)
            # Not while some are starting: what they will take still counts as available.
            if not self._starting:
                room = self._room(ray.available_resources())
                wanted = self._wanted - len(self._clocks) if self._wanted else room
                for _ in range(min(room, wanted)):
                    self._start()
            if self._clocks or self._starting:
                self._nobody_since = None
                return
            self._nobody_since = self._nobody_since or time.monotonic()
            if time.monotonic() - self._nobody_since > ACTOR_START_SECONDS:
                raise ConfigurationError(self._no_room("every worker was lost, and no other"))

    def _room(self, resources: dict[str, float]) -> int:
        """For how many more actors these resources are enough."""
        return room_for(resources, *self._needs())

    def _needs(self) -> tuple[float, float]:
        return min(max(1, self._settings.threads), ray.cluster_resources().get("CPU", 1)), self._gpus

    def _start(self) -> None:
        cpus, gpus = self._needs()
        actor = self._class.options(num_cpus=cpus, num_gpus=gpus).remote(self._settings, self._run_id)
        self._starting[actor.ready.remote()] = actor

    def _welcome(self, *, timeout: float) -> None:
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
            self._clocks[actor] = Clock()
            self._idle.put(actor)

    def _kill(self, actor: Any) -> None:
        with self._lock:
            self._clocks.pop(actor, None)
            self._starting = {answer: each for answer, each in self._starting.items() if each is not actor}
        with suppress(RayError, ValueError):  # dead already, which is what was wanted
            ray.kill(actor, no_restart=True)

    def _no_room(self, who: str) -> str:
        has = ray.cluster_resources()
        return (
            f"{who} found room within {ACTOR_START_SECONDS} s: each asks for {self._settings.threads} CPUs, Ray has "
            f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs; "
            "lower execution.workers or execution.threads_per_worker"
        )


def gpus_of_a_worker(device: str) -> int:
    """GPUs that a worker with the base model takes in the present Ray session, by the configured device."""
    gpus = ray.cluster_resources().get("GPU", 0)
    return int(device == "cuda" or (device == "auto" and gpus >= 1))


def threads_of_a_worker(threads: int, device: str) -> int:
    """Threads that a worker takes; beside GPUs half of a GPU's share of the CPUs is left to workers without."""
    return _beside_gpus(threads) if gpus_of_a_worker(device) else threads


def room_for(resources: Mapping[str, float], cpus: float, gpus: int) -> int:
    """For how many workers of so many CPUs and GPUs each these resources are enough."""
    rooms = [int(resources.get("CPU", 0) // cpus)]
    if gpus:
        rooms.append(int(resources.get("GPU", 0) // gpus))
    return min(rooms)


def room_beside_gpus(threads: int) -> int:
    """How many workers without a GPU there is room for now."""
    return int(ray.available_resources().get("CPU", 0) // max(1, _beside_gpus(threads)))


def _beside_gpus(threads: int) -> int:
    total = ray.cluster_resources()
    return max(1, min(threads, int(total.get("CPU", 1) // (2 * max(1, total.get("GPU", 1))))))


def start_ray(configured: str, run_id: str) -> threading.Event:
    """Join the cluster of `cluster_address`, or start Ray on this machine.

    Returns:
        To be set when Ray is no longer needed: until then the thread that started it stays, since Linux kills a local
        Ray's processes with the very thread that started them, and that of the caller may be a passing one.

    Raises:
        ConfigurationError: no cluster answers there in time, or Ray does not start.
    """
    address, setting = cluster_address(configured)
    if address:
        _require_head(address, setting)
    ended, answer = threading.Event(), queue.Queue()

    def start_and_stay() -> None:
        try:
            with _without("SIGTERM handler is not set"):  # whoever runs the run has set its own
                _init_ray(address, run_id)
        except BaseException as error:
            answer.put(error)
            return
        answer.put(None)
        ended.wait()

    threading.Thread(target=start_and_stay, daemon=True, name="ray").start()
    seconds = JOIN_SECONDS if address else LOCAL_START_SECONDS
    try:
        error = answer.get(timeout=seconds)
    except queue.Empty:
        error = TimeoutError(f"no answer in {seconds:.0f} s")
    if error is None:
        return ended
    if not isinstance(error, (ConnectionError, ValueError, RuntimeError, OSError)):
        raise error
    if address:
        raise _no_cluster(address, setting, error) from error
    raise ConfigurationError(
        f"Ray does not start on this machine ({error}); its logs are in /tmp/ray/session_latest/logs. "
        "Set execution.executor: inline to do without it"
    ) from error


def _require_head(address: str, setting: str) -> None:
    """Ray itself tries an address for minutes before it says anything.

    Raises:
        ConfigurationError: nothing takes a connection there.
    """
    if address == "auto":  # Ray looks up what was started on this machine, and says at once if nothing was
        return
    try:
        parts = urlsplit(address if "://" in address else f"ray://{address}")
        host, port = parts.hostname, parts.port or (10001 if "://" in address else None)
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise ConfigurationError(f"{setting}: {address!r} is no address of a Ray cluster; give host:port")
    deadline = time.monotonic() + REACH_SECONDS
    while True:
        try:
            left = max(0.1, deadline - time.monotonic())
            with socket.create_connection((host, port), timeout=min(5.0, left)):
                return
        except OSError as error:
            if time.monotonic() + _LOOK_SECONDS > deadline:
                raise _no_cluster(address, setting, error) from error
        time.sleep(_LOOK_SECONDS)


def _no_cluster(address: str, setting: str, error: BaseException) -> ConfigurationError:
    return ConfigurationError(
        f"{setting}: no Ray cluster answers at {address!r} ({error}); start one with `ray start --head`, correct the "
        "address, or unset both execution.ray_address and RAY_ADDRESS to start Ray on this machine"
    )


@contextmanager
def _without(text: str):
    """Keep one of Ray's messages out of its log."""

    def others(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    ray_log = logging.getLogger("ray._private.worker")
    ray_log.addFilter(others)
    try:
        yield
    finally:
        ray_log.removeFilter(others)


def _init_ray(address: str, run_id: str) -> None:
    common = {"namespace": f"faceid-{run_id}", "log_to_driver": False, "configure_logging": False}
    if address:
        ray.init(address=address, **common)
        return
    local = {
        "num_cpus": os.cpu_count(),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    # "local": by itself Ray would join whatever cluster was last started on this machine.
    ray.init(address="local", **local, **common)
