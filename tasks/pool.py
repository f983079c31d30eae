"""The Ray pool of one run: hands works to actors, replaces dead or stuck ones, retries per person."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import ray
from ray.exceptions import RayError

from faceid_core.errors import ConfigurationError
from faceid_core.run.executor import OnDone, Stop, Tick, Usage, batches, may_try_again, not_reached
from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.work import Done, Work
from tasks.actor import StageActor
from tasks.workers import Workers, gpus_of_a_worker, room_beside_gpus, start_ray

_LIGHT_PER_GPU_WORKER = 2  # workers without a GPU, for faces and scores
_MOST_AT_ONCE = 256  # batches under way or waiting for a worker


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
        workers: Number of actors; 0 is as many as the cluster has room for, also when it grows or shrinks.
        address: A running cluster, or empty for that of RAY_ADDRESS, or else to start one in this process.
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
        self._closed, self._workers, self._light = False, None, None
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            self._ray_ended = start_ray(address, run_id)
        try:
            self._require_shared_store()
            self._workers = Workers(self.actor_class, settings, run_id, wanted=workers)
            self._light = self._beside_gpus()
        except BaseException:
            self.close()
            raise

    @property
    def overlaps(self) -> bool:
        """Whether pictures can be scored while others are drawn: there is another worker for it."""
        return self._light is not None or len(self._workers) > 1

    def _beside_gpus(self) -> Workers | None:
        """Workers without a GPU for what needs none, where others have one and CPUs are left."""
        if not gpus_of_a_worker(self._settings.device):
            return None
        count = min(_LIGHT_PER_GPU_WORKER * len(self._workers), room_beside_gpus(self._settings.threads))
        if not count:
            return None  # no CPU is left: those with a GPU do everything
        return Workers(self.actor_class, self._settings, self._run_id, wanted=count, with_gpu=False)

    def _fit_for(self, works: Sequence[Work]) -> Workers:
        needs_base = any("base" in work.call.weights for work in works)
        return self._workers if needs_base or self._light is None else self._light

    def _require_shared_store(self) -> None:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if not self._settings.store.startswith("s3://") and len(nodes) > 1:
            raise ConfigurationError(
                f"store {self._settings.store} is a folder, but the Ray cluster has several nodes that cannot all "
                "reach it; use an s3:// store, or one machine"
            )

    def execute(self, works: Sequence[Work], tick: Tick, on_done: OnDone, stop: Stop) -> None:
        """See faceid_core.run.executor.Executor. Several threads may call this at once.

        Raises:
            Exception: what `on_done` or `tick` raised first; works without an outcome are then the caller's.
        """
        waiting = deque(_Try(batch) for batch in batches(works, self._settings.slots))
        lock, speaking = threading.Lock(), threading.Lock()
        errors: list[BaseException] = []
        threads: list[threading.Thread] = []

        def answer(done: Done) -> None:
            with speaking:
                following = on_done(done)
            if following:
                with lock:
                    waiting.extend(_Try(batch) for batch in batches(following, self._settings.slots))
                more_hands()

        def more_hands() -> None:
            with lock:
                alive = sum(thread.is_alive() for thread in threads)
                started = [
                    threading.Thread(target=drain, daemon=True)
                    for _ in range(min(len(waiting), _MOST_AT_ONCE - alive))
                ]
                threads.extend(started)
                for thread in started:
                    thread.start()

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

        more_hands()
        while left := [thread for thread in threads if thread.is_alive()]:
            left[0].join()
        if errors:
            raise errors[0]

    def _run(self, this: _Try, tick: Tick, on_done: OnDone, stop: Stop) -> list[_Try]:
        """Run one batch on the next free actor; return what needs another attempt."""
        workers = self._fit_for(this.works)
        actor = workers.take()
        open_works = {(work.subject, work.call.key): work for work in this.works}
        again: list[_Try] = []
        lost = "its worker ended without an answer"
        if actor is None or self._closed or stop():
            for work in this.works:
                on_done(not_reached(work))
            if actor is not None:
                workers.give(actor)
            return []
        try:
            for kind, value in self._events(workers, actor, this.works):
                if kind == "tick":
                    tick(*value)
                elif kind == "broken":
                    raise ActorLost(value)
                else:
                    work = open_works.pop((value.work.subject, value.work.call.key))
                    if (
                        value.status == "elsewhere"
                    ):  # another run is at it: last in the queue, and then wait for it
                        again.append(_Try([replace(work, patient=True)], this.attempt, this.losses))
                    elif may_try_again(value) and this.attempt < self._attempts:
                        again.append(_Try([work], this.attempt + 1, this.losses))
                    else:
                        on_done(replace(value, attempts=this.attempt + this.losses))
        except (RayError, ActorLost) as error:
            lost = f"its worker was lost ({type(error).__name__}: {str(error).splitlines()[0]})"
            if not self._closed:
                workers.replace(actor)
        except BaseException:
            workers.give(actor)
            raise
        else:
            workers.give(actor)
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

    def _events(self, workers: Workers, actor, batch: list[Work]):
        """Yield the actor's events; raise ActorLost when it is silent for too long."""
        with workers.working(actor):
            yield from self._stream(actor, batch)

    def _stream(self, actor, batch: list[Work]):
        stream = actor.execute.options(num_returns="streaming").remote(batch)
        while True:
            ready, _ = ray.wait([stream], timeout=self._stall_seconds)
            if not ready:
                raise ActorLost(f"no progress for {self._stall_seconds:.0f} s")
            try:
                yield ray.get(next(stream))
            except StopIteration:
                return

    def usage(self) -> Usage:
        """See faceid_core.run.executor.Executor."""
        each = [workers.usage() for workers in (self._workers, self._light) if workers is not None]
        idle = tuple(share for usage in each for share in usage.idle)
        return Usage(idle, sum(usage.replaced for usage in each))

    def close(self) -> None:
        """Kill every actor and, if this pool started Ray, stop it."""
        if self._closed:
            return
        self._closed = True
        for workers in (self._workers, self._light):
            if workers is not None:
                workers.close()
        if self._owns_ray:
            ray.shutdown()
            self._ray_ended.set()
