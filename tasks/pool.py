"""The Ray pool of one run: hands batches to actors, replaces dead or stuck ones, retries per person."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import ray
from ray.exceptions import RayError

from faceid_core.config import cluster_address
from faceid_core.progress import ProgressCallback
from faceid_core.run.executor import OnDone, Stop, Usage, batches, may_try_again, not_reached
from faceid_core.run.tracing import traceparent
from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.work import Done, Work
from tasks.actor import Event, StageActor
from tasks.placement import NodeShape, Request, capacity, free_capacity, grows, node_shapes
from tasks.ray_cluster import start_ray
from tasks.shared_folder import Probe, probe_shared_folder
from tasks.workers import Sizing, Workers

_CPU_WORKERS_PER_GPU_WORKER = 2  # workers without a GPU, for faces and scores
# Of a pool, beside one for each call of `execute`: each runs one batch at a time, or waits for a worker. Of a thousand
# people some thirty calls at once have hundreds of batches each to score.
_MOST_THREADS = 256
_LOOK_SECONDS = 1.0  # between two looks at whether a stage was stopped


class ActorLost(Exception):
    """An actor died or made no progress; its unfinished works are to be tried again."""


@dataclass(frozen=True)
class _Attempt:
    """A batch, which attempt this is, and how many workers were lost while they ran it.

    Losing a worker is usually the machine's fault, so the whole batch runs again once. After a second loss one of its
    works may be the cause, so each work runs alone.
    """

    works: list[Work]
    number: int = 1
    losses: int = 0
    is_beside: bool = False

    def after_loss(self, left: list[Work]) -> list[_Attempt]:
        if self.losses == 0:
            return [replace(self, works=left, losses=1)]
        return [replace(self, works=[work], losses=self.losses + 1) for work in left]


class _Turns:
    """Counts the batches of all calls that wait for a worker, so that what runs beside them takes none from them."""

    def __init__(self) -> None:
        self._waiting, self._changed = 0, threading.Condition()

    def add(self, attempts: Iterable[_Attempt], sign: int = 1) -> None:
        """Count attempts that begin to wait; with `sign` -1 those that no longer do."""
        with self._changed:
            self._waiting += sign * sum(not attempt.is_beside for attempt in attempts)
            self._changed.notify_all()

    def is_mine(self) -> bool:
        """Whether what runs beside may take a worker: no other batch waits for one."""
        with self._changed:
            return not self._waiting

    def wait(self, is_over: Callable[[], bool]) -> None:
        """Return once no batch waits for a worker, or when there is no need to wait any more."""
        with self._changed:
            while self._waiting and not is_over():
                self._changed.wait(_LOOK_SECONDS)


class _CallThreads:
    """The threads of one call of `execute`: one of its own, and others of the pool's spare ones as far as these are free.

    Args:
        work: What each does until nothing is left to do.
        spare: One permit for each spare thread of the pool.
    """

    def __init__(self, work: Callable[[], None], spare: threading.Semaphore):
        self._work, self._spare = work, spare
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        """Start so many more, or as many as may be."""
        with self._lock:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            for _ in range(count):
                is_spare = bool(self._threads)
                if is_spare and not self._spare.acquire(blocking=False):
                    return
                thread = threading.Thread(target=self._run, args=(is_spare,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def join(self) -> None:
        """Wait until all have ended, those that others start meanwhile included."""
        while thread := self._alive():
            thread.join()

    def _alive(self) -> threading.Thread | None:
        with self._lock:
            return next((thread for thread in self._threads if thread.is_alive()), None)

    def _run(self, is_spare: bool) -> None:
        try:
            self._work()
        finally:
            if is_spare:
                self._spare.release()


class RayPool:
    """An executor on long-lived Ray actors, in a namespace of their own.

    Args:
        settings: What each actor's worker needs; its threads are those of an actor, 0 leaves them to the nodes' CPUs.
        run_id: Names the namespace.
        workers: Number of actors; 0 is as many as fit into the cluster, also when it grows or shrinks.
        address: A running cluster; empty for that of RAY_ADDRESS, or else to start Ray on this machine.
        attempts: Attempts per piece of work, over actor deaths and failures together.
        stall_seconds: An actor without an event for longer is killed and replaced.
        gpus_per_worker: GPUs of an actor with the base model, where it has any.
        wait_seconds: Without any actor after which to give up.
        may_come: Nodes that the cluster's autoscaler may add.
        niceness: Of the actors, where Ray is started here; None leaves Ray's own.
        shared_store: A folder store lies on a file system that every node sees.
        metrics_port: Of Ray's own metrics, where Ray is started here; None takes a free one.

    Raises:
        ConfigurationError: no cluster, no room, or a folder store that not every node sees, or may not see later.
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
        gpus_per_worker: float = 1.0,
        wait_seconds: float = 900,
        may_come: Sequence[NodeShape] = (),
        niceness: int | None = None,
        shared_store: bool = False,
        metrics_port: int | None = None,
    ):
        self._settings, self._run_id = settings, run_id
        self._attempts, self._stall_seconds = attempts, stall_seconds
        self._request = Request(settings.device, settings.threads, workers, gpus_per_worker)
        self._wait_seconds, self._may_come = wait_seconds, may_come
        self._joined = any(cluster_address(address))
        self._closed = False
        self._spare_threads = threading.BoundedSemaphore(_MOST_THREADS)
        self._turns = _Turns()
        self._groups: list[Workers] = []  # all that were started
        self._probe: Probe | None = None
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            self._ray_ended = start_ray(address, run_id, niceness=niceness, metrics_port=metrics_port)
        try:
            self._probe = probe_shared_folder(settings.store, stated=shared_store, joined=self._joined)
            self._workers = self._start_group(self._request.share, wanted=workers)
            self._cpu_workers = self._start_cpu_workers()
        except BaseException:
            self.close()
            raise

    @property
    def overlaps(self) -> bool:
        """Whether works of a later stage can run beside those of a stage: there is another worker for it."""
        return self._cpu_workers is not None or len(self._workers) > 1

    def _start_group(self, sizing: Sizing, **options: Any) -> Workers:
        given = options.pop("settings", self._settings)
        started = Workers(
            self.actor_class, given, self._run_id,
            sizing=sizing, wait_seconds=self._wait_seconds, joined=self._joined,
            may_come=self._may_come, probe=self._probe, **options,
        )  # fmt: skip
        self._groups.append(started)
        return started

    def _start_cpu_workers(self) -> Workers | None:
        """Start workers without a GPU for stages that need none, where the others have one and CPUs are left."""
        shapes = node_shapes(self._may_come)
        share, own = self._request.share_without_gpu(shapes), self._request.share(shapes)
        if not own.gpus:
            return None
        without_gpu = replace(self._settings, device="cpu")
        if grows(shapes) and not self._request.workers:
            # Nodes for them are asked for when the first batch waits.
            most = _CPU_WORKERS_PER_GPU_WORKER * capacity(shapes, own)
            options = {"wanted": 0, "most": most, "at_once": False}
        else:
            most = _CPU_WORKERS_PER_GPU_WORKER * self._workers.asked
            options = {"wanted": min(most, free_capacity(share))}
            if not options["wanted"]:
                return None  # no CPU is left: workers with a GPU run every stage
        return self._start_group(self._request.share_without_gpu, settings=without_gpu, **options)

    def _workers_for(self, works: Sequence[Work]) -> Workers:
        needs_base = any("base" in work.call.weights for work in works)
        return self._workers if needs_base or self._cpu_workers is None else self._cpu_workers

    def execute(
        self,
        works: Sequence[Work],
        on_progress: ProgressCallback,
        on_done: OnDone,
        stop: Stop,
        *,
        beside: Sequence[Work] = (),
    ) -> None:
        """See faceid_core.run.executor.Executor. Several threads may call this at once.

        Raises:
            Exception: what `on_done` or `on_progress` raised first; some works then have no outcome.
        """
        slots, turns = self._settings.slots, self._turns
        waiting = deque(_Attempt(batch) for batch in batches(works, slots))
        waiting.extend(_Attempt(batch, is_beside=True) for batch in batches(beside, slots))
        turns.add(waiting)
        carrier = traceparent()  # threads begin without the caller's span
        lock, done_lock = threading.Lock(), threading.Lock()
        errors: list[BaseException] = []

        def report(done: Done) -> None:
            with done_lock:
                following = on_done(done)
            if following:
                attempts = [_Attempt(batch) for batch in batches(following, slots)]
                turns.add(attempts)
                with lock:
                    waiting.extend(attempts)
                threads.start(len(waiting))

        def run_waiting() -> None:
            try:
                while True:
                    with lock:
                        if not waiting or errors:
                            return
                        attempt = waiting.popleft()
                    again = self._run(attempt, carrier, on_progress, report, stop)
                    turns.add(again)
                    with lock:
                        waiting.extend(again)
                    threads.start(len(waiting))  # spare ones that were in use before may be free now
            except BaseException as error:  # raised below, in the caller's thread
                errors.append(error)

        threads = _CallThreads(run_waiting, self._spare_threads)
        threads.start(len(waiting))
        threads.join()
        turns.add(waiting, -1)  # left behind by an error
        if errors:
            raise errors[0]

    def _run(
        self,
        attempt: _Attempt,
        carrier: Mapping[str, str],
        on_progress: ProgressCallback,
        on_done: OnDone,
        stop: Stop,
    ) -> list[_Attempt]:
        """Run one batch on the next free actor; return what needs another attempt."""
        workers = self._workers_for(attempt.works)
        actor = self._acquire(workers, attempt, stop)
        open_works = {(work.subject, work.call.key): work for work in attempt.works}
        again: list[_Attempt] = []
        lost = "its worker ended without an answer"
        if actor is None or self._closed or stop():
            for work in attempt.works:
                on_done(not_reached(work))
            if actor is not None:
                workers.release(actor)
            return []
        try:
            with workers.working(actor):
                for kind, value in self._events(actor, attempt.works, carrier):
                    if kind == "progress":
                        on_progress(*value)
                    elif kind == "broken":
                        raise ActorLost(value)
                    else:
                        # What came back has parameters of its own; those that were sent are shared by thousands.
                        own = open_works.pop((value.work.subject, value.work.call.key))
                        again += self._next_attempt(attempt, replace(value, work=own), on_done)
        except (RayError, ActorLost) as error:
            lost = f"its worker was lost ({type(error).__name__}: {str(error).splitlines()[0]})"
            if not self._closed:
                workers.replace(actor)
        except BaseException:
            workers.release(actor)
            raise
        else:
            workers.release(actor)
        return again + self._after_loss(attempt, list(open_works.values()), lost, on_done)

    def _acquire(self, workers: Workers, attempt: _Attempt, stop: Stop) -> Any | None:
        """Wait for an actor, as `Workers.acquire`; what runs beside lets every other batch have one first."""
        if not attempt.is_beside:
            try:
                return workers.acquire()
            finally:
                self._turns.add([attempt], -1)
        while True:
            self._turns.wait(lambda: self._closed or stop())
            actor = workers.acquire()
            # Batches of another call may have come while this one waited for an actor: they go first.
            if actor is None or self._closed or stop() or self._turns.is_mine():
                return actor
            workers.release(actor)

    def _next_attempt(self, attempt: _Attempt, done: Done, on_done: OnDone) -> list[_Attempt]:
        """Report a work's outcome, or return the attempt that follows it."""
        if done.status == "elsewhere":  # another run computes it: wait for it at the end of the queue
            if attempt.is_beside:
                on_done(not_reached(done.work))
                return []
            return [replace(attempt, works=[replace(done.work, patient=True)])]
        if may_try_again(done) and attempt.number < self._attempts:
            return [replace(attempt, works=[done.work], number=attempt.number + 1)]
        on_done(replace(done, attempts=attempt.number + attempt.losses))
        return []

    def _after_loss(self, attempt: _Attempt, left: list[Work], lost: str, on_done: OnDone) -> list[_Attempt]:
        """Return the attempts that follow for works that a lost worker left without an outcome."""
        if self._closed:
            for work in left:
                on_done(not_reached(work))
            return []
        if len(left) > 1:
            return attempt.after_loss(left)
        if left and attempt.number < self._attempts:
            return [replace(attempt, works=left, number=attempt.number + 1)]
        for work in left:
            attempts = attempt.number + attempt.losses
            on_done(Done(work, "failed", reason="worker_lost", message=lost, attempts=attempts))
        return []

    def _events(self, actor: Any, batch: list[Work], carrier: Mapping[str, str]) -> Iterator[Event]:
        """Yield the actor's events; raise ActorLost when none comes for `stall_seconds`."""
        stream = actor.execute.options(num_returns="streaming").remote(batch, carrier)
        while True:
            ready, _ = ray.wait([stream], timeout=self._stall_seconds)
            if not ready:
                raise ActorLost(f"no progress for {self._stall_seconds:.0f} s")
            try:
                yield cast(Event, ray.get(next(stream)))
            except StopIteration:
                return

    def usage(self) -> Usage:
        """See faceid_core.run.executor.Executor."""
        each = [workers.usage() for workers in self._groups]
        idle = tuple(share for usage in each for share in usage.idle)
        return Usage(idle, sum(usage.replaced for usage in each))

    def close(self) -> None:
        """Kill every actor and, if this pool started Ray, stop it."""
        if self._closed:
            return
        self._closed = True
        for workers in self._groups:
            workers.close()
        if self._probe:
            self._probe.remove()
        if self._owns_ray:
            ray.shutdown()
            self._ray_ended.set()
