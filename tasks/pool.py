"""The Ray pool of one run: hands works to actors, replaces dead or stuck ones, retries per person."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import ray
from ray.exceptions import RayError

from faceid_core.errors import ConfigurationError
from faceid_core.night.executor import OnDone, Stop, Tick, batches, not_reached
from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.work import Done, Work
from tasks.actor import StageActor

OBJECT_STORE_BYTES = 200_000_000  # only names and digests pass through Ray
ACTOR_START_SECONDS = 180


class ActorLost(Exception):
    """An actor died or made no progress; what it had not finished is to be tried again."""


@dataclass(frozen=True)
class _Try:
    """A batch and what it has been through: attempts of its own, and workers lost while it was in company.

    Losing a worker is usually the machine's fault, so the batch first runs again as it is; losing a second one
    means that somebody in it may be poisonous, so from then on everybody runs alone and answers for himself.
    """

    works: list[Work]
    attempt: int = 1
    losses: int = 0

    def after_loss(self, left: list[Work]) -> list[_Try]:
        if self.losses == 0:
            return [_Try(left, self.attempt, 1)]
        return [_Try([work], self.attempt, self.losses + 1) for work in left]


class RayPool:
    """Long-lived actors in a namespace of their own, one per share of the machine or cluster.

    Args:
        settings: What each actor's worker needs.
        run_id: Names the namespace.
        workers: Number of actors.
        address: A running cluster, or empty to start one in this process.
        attempts: Tries per piece of work, over actor deaths and failures together.
        stall_seconds: An actor silent for longer is killed and replaced.

    Raises:
        ConfigurationError: a folder store with a cluster of several nodes, which could not all see it.
    """

    actor_class = StageActor

    def __init__(
        self,
        settings: WorkerSettings,
        run_id: str,
        *,
        workers: int,
        address: str = "",
        attempts: int = 2,
        stall_seconds: float = 1200,
    ):
        self._settings, self._run_id = settings, run_id
        self._attempts, self._stall_seconds = attempts, stall_seconds
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            _start_ray(address, run_id)
        self._idle: queue.Queue = queue.Queue()
        self._actors: set = set()
        self._lock = threading.Lock()
        self._closed = False
        self.replaced = 0
        if not settings.store.startswith("s3://") and len([n for n in ray.nodes() if n["Alive"]]) > 1:
            self.close()
            raise ConfigurationError(
                f"store {settings.store} is a folder, but the Ray cluster has several nodes that cannot all reach it; "
                "use an s3:// store, or one machine"
            )
        self._workers = workers
        try:
            self._start_actors()
        except BaseException:
            self.close()
            raise

    def execute(self, works: Sequence[Work], tick: Tick, on_done: OnDone, stop: Stop) -> None:
        """See faceid_core.night.executor.Executor. Several threads may call this at once.

        Raises:
            Exception: what `on_done` or `tick` raised first; works without an outcome are then the caller's.
        """
        waiting = deque(_Try(batch) for batch in batches(works, self._settings.slots))
        lock, speaking = threading.Lock(), threading.Lock()
        errors: list[BaseException] = []

        def answer(done: Done) -> None:
            with speaking:
                on_done(done)

        def drain() -> None:
            try:
                while True:
                    with lock:
                        if not waiting or errors:
                            return
                        this = waiting.popleft()
                    again = self._run(this, tick, answer, stop)
                    with lock:
                        waiting.extend(again)
            except BaseException as error:  # handed to the caller below, in its own thread
                errors.append(error)

        threads = [
            threading.Thread(target=drain, daemon=True) for _ in range(min(len(waiting), self._workers))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def _run(self, this: _Try, tick: Tick, on_done: OnDone, stop: Stop) -> list[_Try]:
        """Run one batch on the next free actor; return what needs another attempt."""
        actor = self._idle.get()
        open_works = {(work.subject, work.call.key): work for work in this.works}
        again: list[_Try] = []
        lost = "its worker ended without an answer"
        try:
            if self._closed or stop():
                for work in this.works:
                    on_done(not_reached(work))
                return []
            for kind, value in self._events(actor, this.works):
                if kind == "tick":
                    tick(*value)
                elif kind == "broken":
                    raise ActorLost(value)
                else:
                    work = open_works.pop((value.work.subject, value.work.call.key))
                    if value.status == "failed" and this.attempt < self._attempts:
                        again.append(_Try([work], this.attempt + 1, this.losses))
                    else:
                        on_done(replace(value, attempts=this.attempt + this.losses))
        except (RayError, ActorLost) as error:
            lost = f"its worker was lost ({type(error).__name__}: {str(error).splitlines()[0]})"
            if not self._closed:
                actor = self._replace(actor)
        finally:
            self._idle.put(actor)
        return again + self._left_over(this, list(open_works.values()), lost, on_done)

    def _left_over(self, this: _Try, left: list[Work], lost: str, on_done: OnDone) -> list[_Try]:
        """What to do with works that a lost worker did not answer for."""
        if self._closed:
            for work in left:
                on_done(not_reached(work))
            return []
        if len(left) > 1:
            return this.after_loss(left)
        if left and this.attempt < self._attempts:
            return [_Try(left, this.attempt + 1, this.losses)]
        for work in left:
            attempts = this.attempt + this.losses
            on_done(Done(work, "failed", reason="worker_lost", message=lost, attempts=attempts))
        return []

    def _start_actors(self) -> None:
        """Start every actor and wait until it answers; one that finds no room would hold its batch for ever.

        Raises:
            ConfigurationError: the cluster has no room for so many workers.
        """
        starting = {
            actor.ready.remote(): actor for actor in [self._new_actor() for _ in range(self._workers)]
        }
        ready, waiting = ray.wait(list(starting), num_returns=len(starting), timeout=ACTOR_START_SECONDS)
        if waiting:
            has = ray.cluster_resources()
            raise ConfigurationError(
                f"only {len(ready)} of {self._workers} workers found room within {ACTOR_START_SECONDS} s: each asks "
                f"for {self._settings.threads} CPUs, Ray has {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs; "
                "lower execution.workers or execution.threads_per_worker"
            )
        for reference in ready:
            self._idle.put(starting[reference])

    def _events(self, actor, batch: list[Work]):
        """Yield the actor's events; raise ActorLost when it is silent for too long."""
        stream = actor.execute.options(num_returns="streaming").remote(batch)
        while True:
            ready, _ = ray.wait([stream], timeout=self._stall_seconds)
            if not ready:
                raise ActorLost(f"no progress for {self._stall_seconds:.0f} s")
            try:
                yield ray.get(next(stream))
            except StopIteration:
                return

    def _new_actor(self):
        threads = max(1, self._settings.threads)
        gpus = 1 if self._settings.device == "cuda" or (self._settings.device == "auto" and _has_gpu()) else 0
        available = ray.cluster_resources().get("CPU", 1)
        actor = self.actor_class.options(num_cpus=min(threads, available), num_gpus=gpus).remote(
            self._settings, self._run_id
        )
        with self._lock:
            self._actors.add(actor)
        return actor

    def _replace(self, actor):
        """Kill an actor for certain, so that it cannot hold its CPUs, and start another."""
        self._kill(actor)
        self.replaced += 1
        return self._new_actor()

    def _kill(self, actor) -> None:
        with self._lock:
            self._actors.discard(actor)
        with suppress(RayError, ValueError):  # dead already, which is what was wanted
            ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """Kill every actor and, if this pool started Ray, stop it."""
        if self._closed:
            return
        self._closed = True
        for actor in list(self._actors):
            self._kill(actor)
        if self._owns_ray:
            ray.shutdown()


def _start_ray(address: str, run_id: str) -> None:
    common = {"namespace": f"faceid-{run_id}", "log_to_driver": False, "configure_logging": False}
    if address:
        try:
            ray.init(address=address, **common)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigurationError(
                f"execution.ray_address: no Ray cluster answers at {address!r} ({error}); "
                "start one with `ray start --head`, or leave it empty to run on this machine"
            ) from error
        return
    ray.init(
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        **common,
    )


def _has_gpu() -> bool:
    return ray.cluster_resources().get("GPU", 0) >= 1
