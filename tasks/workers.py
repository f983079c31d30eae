"""The Ray actors of one run: started, handed out one at a time, replaced when lost, more when the cluster grows."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import Any, Protocol

import ray
from ray._private import state as ray_state  # Ray has no public call for the node of an actor that has ended
from ray.exceptions import RayError

from faceid_core.errors import ConfigurationError
from faceid_core.run.executor import MOST_AT_ONCE, Usage, WorkerClock
from faceid_core.stages.models import WorkerSettings
from tasks.fitness import Fitness
from tasks.placement import NodeShape, Share, capacity, described, free_capacity, grows, node_shapes
from tasks.shared_folder import Probe

log = logging.getLogger(__name__)

_REPORT_AFTER_SECONDS = 20.0  # of waiting for workers
_REPORT_AGAIN_SECONDS = 60.0
_POLL_SECONDS = 1.0  # between two looks for free resources, while a batch waits for a worker
_OTHERS_SECONDS = 20.0  # for further workers to start, once the first can work
_MOST_FAILED_STARTS = 3  # in a row on one node
_NO_NODE = ""


class Sizing(Protocol):
    """What each worker asks for, by the nodes that there are or may be."""

    def __call__(self, shapes: list[NodeShape]) -> Share: ...  # noqa: D102


class Workers:
    """Long-lived actors in the present Ray session.

    Args:
        actor_class: what to start; takes settings and run id, answers `ready(probe)` with its `Fitness`.
        settings: for each; its threads are those of the share that it gets.
        wanted: how many; 0 is as many as fit, now and later.
        sizing: what each asks for; asked again as long as none could start, since nodes come and go.
        wait_seconds: without any worker after which to give up.
        joined: whether nodes may still come: a cluster, not a Ray of this machine alone.
        may_come: nodes that an autoscaler may add.
        probe: a file that a worker, whose node may have joined just now, must read before it is used; None for none.
        most: never more than so many; 0 is no limit.
        at_once: start the first here and wait for them; otherwise when the first batch asks.

    Raises:
        ConfigurationError: the wanted number does not fit into the cluster, or not even one.
    """

    def __init__(
        self,
        actor_class: Any,
        settings: WorkerSettings,
        run_id: str,
        *,
        wanted: int,
        sizing: Sizing,
        wait_seconds: float,
        joined: bool,
        may_come: Sequence[NodeShape] = (),
        probe: Probe | None = None,
        most: int = 0,
        at_once: bool = True,
    ):
        self._class, self._run_id, self._wanted, self._most = actor_class, run_id, wanted, most
        self._settings, self._sizing, self._probe = settings, sizing, probe
        self._wait_seconds, self._joined, self._may_come = wait_seconds, joined, may_come
        self._idle: queue.Queue = queue.Queue()
        self._clocks: dict[Any, WorkerClock] = {}  # of actors that are ready
        self._starting: dict[Any, Any] = {}  # pending answer of `ready` -> actor
        self._lock = threading.RLock()
        self._closed = False
        self._failed_starts: Counter[str] = Counter()  # in a row, by the node's id
        self._avoided: set[str] = set()  # nodes on which no worker is started again
        self._refilled_at = 0.0
        self._batches_waiting = 0
        self._empty_since: float | None = None
        self._reported_at = 0.0
        self.replaced = 0
        self._look()
        if at_once:
            self._start_first()

    def acquire(self) -> Any | None:
        """Wait for an idle actor; None once the workers are closed.

        Raises:
            ConfigurationError: there is no actor, and none found room in time.
        """
        with self._lock:
            self._batches_waiting += 1
        try:
            while not self._closed:
                with suppress(queue.Empty):
                    return self._idle.get(timeout=_POLL_SECONDS)
                self._refill()
            return None
        finally:
            with self._lock:
                self._batches_waiting -= 1

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

    @property
    def asked(self) -> int:
        """How many there are, or will be once they have started."""
        with self._lock:
            return len(self._clocks) + len(self._starting)

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

    def _look(self) -> None:
        """Look at the cluster's nodes, and at what a worker asks of one."""
        self._shapes = node_shapes(self._may_come)
        self._share = self._sizing(self._shapes)

    def _start_first(self) -> None:
        """Ask for the first workers and wait for them.

        A fixed number is waited for whole. Where as many as fit are wanted, or where an autoscaler adds nodes, work
        begins with those that are ready, and the others join it.
        """
        with self._lock:
            self._require_room()
            self._ask_for_first()
            began = self._reported_at = time.monotonic()
            waits_for_all = self._wanted and not grows(self._shapes)
            while self._starting:
                waited = time.monotonic() - began
                if waited > self._wait_seconds or (
                    self._clocks and not waits_for_all and (grows(self._shapes) or waited > _OTHERS_SECONDS)
                ):
                    break
                self._collect_ready(timeout=min(_POLL_SECONDS, self._wait_seconds))
                self._report_wait(waited)
                self._ask_again_if_nodes_changed()
                if not self._starting and not self._clocks:
                    self._ask_for_first()  # all others ended on nodes that cannot do it
            if self._starting and (waits_for_all or not self._clocks):
                raise ConfigurationError(
                    self._no_room(f"only {len(self._clocks)} of {self._wanted or 1} workers")
                )

    def _require_room(self) -> None:
        """Refuse a number for which there is no room and will be none.

        Raises:
            ConfigurationError: it does not fit, on any node that is there or that the autoscaler may add.
        """
        room, wanted = capacity(self._shapes, self._share), self._wanted or 1
        # Nodes of an autoscaler that the configuration does not name, or that are started by hand, may come.
        if room >= wanted or (self._joined and not grows(self._shapes)):
            return
        raise ConfigurationError(
            f"there is room for {room} of {wanted} workers, each with {self._share} on one node: the cluster has "
            f"{described(self._shapes)}; lower execution.workers, execution.threads_per_worker or "
            "execution.gpus_per_worker"
        )

    def _ask_for_first(self) -> None:
        count = self._wanted or max(1, self._free())
        for _ in range(min(count, self._most or count)):
            self._start()

    def _ask_again_if_nodes_changed(self) -> None:
        """Ask for other sizes if the nodes have changed before any worker found room."""
        if self._clocks:
            return
        before = self._share
        self._look()
        if self._share != before:
            for actor in list(self._starting.values()):
                self._kill(actor)
            self._ask_for_first()

    def _report_wait(self, waited: float) -> None:
        """Say what is waited for, after a while and then once a minute."""
        now = time.monotonic()
        pause = (
            _REPORT_AGAIN_SECONDS
            if waited > _REPORT_AFTER_SECONDS + _REPORT_AGAIN_SECONDS
            else _REPORT_AFTER_SECONDS
        )
        if not self._starting or now - self._reported_at < pause:
            return
        self._reported_at = now
        log.warning(
            "%d worker(s) are ready; waiting for %d more, each with %s on one node, for up to %.0f s in all "
            "(execution.worker_wait_seconds). The cluster has %s",
            len(self._clocks), len(self._starting), self._share, self._wait_seconds, described(self._shapes),
        )  # fmt: skip

    def _refill(self) -> None:
        """Hand out actors that have become ready; start the wanted ones that fit, and ask an autoscaler for more."""
        with self._lock:
            # Many batches may be waiting: one check serves them all.
            if self._closed or time.monotonic() - self._refilled_at < _POLL_SECONDS:
                return
            self._refilled_at = time.monotonic()
            self._collect_ready(timeout=0)
            if not self._clocks and not self._starting:
                self._look()
            for _ in range(self._count_to_start()):
                self._start()
            if self._clocks:
                self._empty_since = None
                return
            self._empty_since = self._empty_since or time.monotonic()
            waited = time.monotonic() - self._empty_since
            self._report_wait(waited)
            if waited > self._wait_seconds:
                raise ConfigurationError(self._no_room("there is no worker, and no other"))

    def _count_to_start(self) -> int:
        """How many workers to start now: those that fit, and as many as batches wait where nodes may be added."""
        present = len(self._clocks) + len(self._starting)
        wanted = (self._wanted or self._most or present + self._batches_waiting + MOST_AT_ONCE) - present
        if wanted <= 0:
            return 0
        # Not while some are starting: the resources that they will take still count as free.
        fitting = 0 if self._starting else self._free()
        if fitting >= wanted or not grows(shapes := node_shapes(self._may_come, without=self._avoided)):
            return min(fitting, wanted)
        may_come = capacity(shapes, self._share) - present
        asked = min(self._batches_waiting - len(self._starting), may_come)
        return max(0, min(wanted, max(fitting, asked)))

    def _free(self) -> int:
        """How many workers fit into what is free now; none where they end before they get to any node."""
        return 0 if _NO_NODE in self._avoided else free_capacity(self._share, without=self._avoided)

    def _start(self) -> None:
        settings = replace(self._settings, threads=self._share.threads)
        options: dict[str, Any] = {"num_cpus": self._share.cpus, "num_gpus": self._share.gpus}
        if nodes := sorted(self._avoided - {_NO_NODE}):
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(nodes)})"}
        actor = self._class.options(**options).remote(settings, self._run_id)
        self._starting[actor.ready.remote(self._probe)] = actor

    def _collect_ready(self, *, timeout: float) -> None:
        """Hand out the actors that have become ready.

        Raises:
            ConfigurationError: none is ready or starting, and no node is left that may have one: on the others one after
                another ended before it was ready, or the first cannot do the work.
        """
        if not self._starting:
            return
        ready, _ = ray.wait(list(self._starting), num_returns=len(self._starting), timeout=timeout)
        problem: tuple[str, BaseException | None] | None = None
        for answer in ready:
            actor = self._starting.pop(answer)
            node = _node_of(actor)
            try:
                found: Fitness = ray.get(answer)
            except RayError as error:
                problem = self._note_failed_start(node, error), error
                continue
            if found.refusal:
                self._kill(actor)
                problem = found.refusal, None
                self._avoided.add(node)
                log.error("a worker is not used: %s", found.refusal)
                continue
            if found.warning:
                log.warning("%s", found.warning)
            del self._failed_starts[node]
            self._clocks[actor] = WorkerClock()
            self._idle.put(actor)
        if problem and not self._clocks and not self._starting and not self._may_start_elsewhere():
            raise ConfigurationError(problem[0]) from problem[1]

    def _note_failed_start(self, node: str, error: RayError) -> str:
        """Count a worker that ended before it was ready, and avoid a node where that goes on; the message about it."""
        log.warning("a worker ended before it was ready: %s", str(error).splitlines()[0])
        self._failed_starts[node] += 1
        if self._failed_starts[node] >= _MOST_FAILED_STARTS and node not in self._avoided:
            self._avoided.add(node)
            log.error("no further worker is started on node %s", node)
        return f"{self._failed_starts.total()} workers ended before they were ready: {error}"

    def _may_start_elsewhere(self) -> bool:
        """Whether a node that is not avoided has room for a worker, or the autoscaler may still add one that has."""
        if _NO_NODE in self._avoided:
            return False
        shapes = node_shapes(self._may_come, without=self._avoided)
        # Nodes of an autoscaler are alike: where several cannot do it, the next one will not.
        return capacity(shapes, self._share, present=len(self._avoided) >= _MOST_FAILED_STARTS) > 0

    def _kill(self, actor: Any) -> None:
        with self._lock:
            self._clocks.pop(actor, None)
            self._starting = {answer: each for answer, each in self._starting.items() if each is not actor}
        with suppress(RayError, ValueError):  # dead already
            ray.kill(actor, no_restart=True)

    def _no_room(self, who: str) -> str:
        nodes = described(node_shapes(self._may_come))
        return (
            f"{who} found room within {self._wait_seconds:.0f} s (execution.worker_wait_seconds): each asks for "
            f"{self._share} on one node, the cluster has {nodes}; lower execution.workers, "
            "execution.threads_per_worker or execution.gpus_per_worker, or wait longer"
        )


def _node_of(actor: Any) -> str:
    """The id of the node that an actor was started on, whether it lives or not; `_NO_NODE` if it was on none."""
    record = ray_state.actors(actor._actor_id.hex())
    return record.get("Address", {}).get("NodeID", _NO_NODE)
