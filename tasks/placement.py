"""Where workers fit: the kinds of nodes of a Ray cluster, and what each worker asks of one node.

A worker lies on one node, so everything is counted by node: sixteen CPUs on a head do not help a worker that needs a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc
import ray
from ray._private import state as ray_state  # Ray has no public call for what is free on each node
from ray._private.internal_api import node_stats  # nor for what is used of each GPU

from faceid_core.config.execution import NODES

_ROUNDING = 1e-6
# A worker's CPUs are the most with which more than this share of the cluster's CPUs is used: few copies of the models,
# few idle CPUs.
_USED_SHARE = 0.8


@dataclass(frozen=True)
class NodeShape:
    """A kind of node.

    Attributes:
        cpus: That Ray gives away on one.
        gpus: The same.
        there: How many there are.
        more: How many more the autoscaler may add.
    """

    cpus: float
    gpus: float
    there: int = 0
    more: int = 0

    def fit(self, share: Share) -> int:
        """How many such workers find room on one while nothing else uses it."""
        return share.fit(self.cpus, [1.0] * int(self.gpus))

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        more = f" (up to {self.more} more)" if self.more else ""
        return f"{self.there} node(s) with {self.cpus:g} CPU{gpus}{more}"


@dataclass(frozen=True)
class Share:
    """What one worker asks of one node; either may be a fraction."""

    cpus: float
    gpus: float = 0.0

    @property
    def threads(self) -> int:
        """CPU threads of the worker."""
        return max(1, int(self.cpus))

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")

    def fit(self, cpus: float, gpus: Sequence[float]) -> int:
        """How many workers find room on one node.

        Args:
            cpus: That are free.
            gpus: What is free of each GPU, 0 to 1.
        """
        counts = []
        if self.cpus > 0:
            counts.append(int(cpus / self.cpus + _ROUNDING))
        if self.gpus > 0:
            counts.append(self._fit_gpus(gpus))
        return min(counts)

    def _fit_gpus(self, gpus: Sequence[float]) -> int:
        """A fraction lies on one GPU, and a whole number takes GPUs of which nothing is used."""
        if self.gpus < 1:
            return sum(int(free / self.gpus + _ROUNDING) for free in gpus)
        return sum(free > 1 - _ROUNDING for free in gpus) // int(self.gpus)


@dataclass(frozen=True)
class Request:
    """What the configuration says of the workers' size.

    Attributes:
        device: `base_model.device`.
        threads: `execution.threads_per_worker`; 0 leaves it to the nodes.
        workers: `execution.workers`; 0 is as many as fit.
        gpus_per_worker: `execution.gpus_per_worker`.
    """

    device: str
    threads: int
    workers: int
    gpus_per_worker: float = 1.0

    def share(self, shapes: Sequence[NodeShape]) -> Share:
        """What a worker with the base model asks for: a GPU by `auto` where any node has one, or may have.

        The CPUs are those of the node that has the least for a worker, so that each suitable node takes one.
        """
        able = [
            shape
            for shape in shapes
            if shape.there + shape.more and shape.gpus + _ROUNDING >= self.gpus_per_worker
        ]
        if self.device == "cuda" or (self.device == "auto" and able):
            each = [_cpus_beside_gpu(shape, self.gpus_per_worker) for shape in able]
            cpus = min([*each, self.threads] if self.threads else each, default=self.threads or 1.0)
            return Share(cpus, self.gpus_per_worker)
        return Share(self._cpus(shapes))

    def share_without_gpu(self, shapes: Sequence[NodeShape]) -> Share:
        """What a worker for faces and scores asks for, beside workers with a GPU."""
        return Share(max(1, self.share(shapes).threads))

    def _cpus(self, shapes: Sequence[NodeShape]) -> float:
        """CPUs of a worker on nodes that need no GPU."""
        nodes = [shape for shape in shapes if shape.cpus >= 1 and shape.there + shape.more]
        if not nodes:
            return float(self.threads or 1)
        largest = int(max(shape.cpus for shape in nodes))
        if self.threads:
            return float(min(self.threads, largest))
        total = sum(shape.cpus * (shape.there + shape.more) for shape in nodes)
        for size in range(largest, 0, -1):
            room = capacity(nodes, Share(size))
            if room >= self.workers if self.workers else room * size > _USED_SHARE * total:
                return float(size)
        return 1.0


def _cpus_beside_gpu(shape: NodeShape, gpus: float) -> float:
    """CPUs of each worker with a GPU on such a node: half of its part of them, for the others are workers without one.

    On a node with fewer CPUs than workers it is a fraction, or nothing.
    """
    part = shape.cpus / shape.fit(Share(0, gpus))
    if part >= 2:
        return float(int(part / 2))
    return 1.0 if part >= 1 else int(part * 100) / 100


def capacity(shapes: Iterable[NodeShape], share: Share, *, present: bool = False) -> int:
    """How many workers fit into a cluster, each on one node; with `present` on the nodes that are there."""
    return sum(shape.fit(share) * (shape.there + (0 if present else shape.more)) for shape in shapes)


def free_capacity(share: Share, *, without: Collection[str] = ()) -> int:
    """How many workers fit into what is free now, each on one node; `without` are ids of nodes that do not count."""
    free = ray_state.available_resources_per_node()
    return sum(
        share.fit(free[node["NodeID"]].get("CPU", 0), _free_gpus(node, free[node["NodeID"]].get("GPU", 0)))
        for node in ray.nodes()
        if node["NodeID"] in free and node["NodeID"] not in without
    )


def _free_gpus(node: Mapping[str, Any], free: float) -> list[float]:
    """What is free of each GPU of a node.

    Args:
        node: As in `ray.nodes()`.
        free: The sum over its GPUs, which is all that Ray's head knows of a node.
    """
    count = int(node["Resources"].get("GPU", 0))
    if count <= 1 or free < _ROUNDING or free > count - _ROUNDING:
        return [free / count] * count if count else []
    gpus = [1.0] * count
    try:
        used = _used_gpus(node)
    except grpc.RpcError:  # the node is going
        return []
    for slot, part in used:
        gpus[slot] -= part
    _take_reserved(gpus, sum(gpus) - free)
    return gpus


def _used_gpus(node: Mapping[str, Any]) -> list[tuple[int, float]]:
    """What each process of a node, of whatever program, has of which GPU: (slot, part).

    Raises:
        grpc.RpcError: the node does not answer.
    """
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False)
    return [
        (each.slot, each.allocation)
        for process in stats.core_workers_stats
        for each in process.used_resources["GPU"].resource_slots
    ]


def _take_reserved(gpus: list[float], reserved: float) -> None:
    """Take away what no process uses and yet is not free, such as a placement group's, from the freest GPUs."""
    for slot in sorted(range(len(gpus)), key=lambda each: -gpus[each]):
        part = min(gpus[slot], max(0.0, reserved))
        gpus[slot] -= part
        reserved -= part


def nodes_that_may_come(texts: Iterable[str]) -> list[NodeShape]:
    """The kinds of nodes that `execution.autoscaler_nodes` names.

    Args:
        texts: As in '8 x 6 CPU, 1 GPU'.

    Raises:
        ValueError: a text is none of these; the configuration refuses it before.
    """
    shapes = []
    for text in texts:
        if not (found := NODES.match(text)):
            raise ValueError(f"{text!r} is not like '8 x 6 CPU, 1 GPU'")
        shapes.append(NodeShape(float(found["cpus"]), float(found["gpus"] or 0), more=int(found["count"])))
    return shapes


def node_shapes(may_come: Iterable[NodeShape] = (), *, without: Collection[str] = ()) -> list[NodeShape]:
    """The kinds of nodes of the present Ray session: those that are there, and those that its autoscaler may still add.

    Args:
        may_come: All that the autoscaler may have, of which some can be there already.
        without: Ids of nodes that are there and do not count as such.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    every, there = (
        Counter(
            (float(node["Resources"].get("CPU", 0)), float(node["Resources"].get("GPU", 0))) for node in nodes
        )
        for nodes in (alive, [node for node in alive if node["NodeID"] not in without])
    )
    shapes = []
    for shape in may_come:
        size = (shape.cpus, shape.gpus)
        more = max(0, shape.more - every.pop(size, 0))
        shapes.append(replace(shape, there=there.pop(size, 0), more=more))
    shapes += [NodeShape(*size, there=there[size]) for size in every]
    return sorted(shapes, key=lambda shape: (shape.gpus, shape.cpus))


def grows(shapes: Iterable[NodeShape]) -> bool:
    """Whether an autoscaler may add nodes."""
    return any(shape.more for shape in shapes)


def described(shapes: Sequence[NodeShape]) -> str:
    """The cluster in words, for messages."""
    return "; ".join(str(shape) for shape in shapes) or "no node"
