"""What the pool does in clusters of many shapes: real nodes of Ray on this machine, with made-up CPUs and GPUs.

The table in docs/cluster.md has a row for each.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._raylet import GcsClient
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.cluster_utils import Cluster

from faceid_core.errors import ConfigurationError
from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.work import Done, Work
from faceid_core.store import S3Settings
from faceid_core.store.keys import StageCall
from faceid_core.weights.required import ModelRef
from tasks.fitness import Fitness, fitness
from tasks.placement import Share, free_capacity, nodes_that_may_come
from tasks.pool import RayPool

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(900)]
WAIT_SECONDS = 240


@ray.remote(max_restarts=0, max_task_retries=0)
class LightActor:
    """Stands in for a worker: it writes down what it was given."""

    def __init__(self, settings: WorkerSettings, run_id: str):
        given = ray.get_runtime_context().get_assigned_resources()
        self._given = f"{given.get('CPU', 0):g} CPU {given.get('GPU', 0):g} GPU {settings.threads} threads"
        self._folder = Path(settings.models[0].name)
        self._seconds_to_start = settings.checkpoint_seconds
        (self._folder / f"{os.getpid()}").write_text(self._given)

    def ready(self, probe=None):
        time.sleep(self._seconds_to_start)
        # The GPUs are made up: torch sees none of them, which would be told of real ones.
        return fitness(probe, "cpu") if probe and not probe.is_read() else Fitness()

    def execute(self, works, carrier):
        for work in works:
            time.sleep(1)
            yield ("done", Done(work, "done"))


class LightPool(RayPool):
    actor_class = LightActor


@ray.remote(max_restarts=0, max_task_retries=0)
class ActorOnBadNode:
    """Stands in for a worker; nodes that cannot do it have files of their ids below `blind` or `broken`."""

    def __init__(self, settings: WorkerSettings, run_id: str):
        self._folder = Path(settings.models[0].name)
        node = ray.get_runtime_context().get_node_id()
        self._is_blind = (self._folder / "blind" / node).exists()
        (self._folder / f"{node} {os.getpid()}").touch()
        if (self._folder / "broken" / node).exists():
            raise OSError("this node cannot do it")
        time.sleep(settings.checkpoint_seconds)

    def ready(self, probe):
        return Fitness(refusal="not read back on 192.0.2.9") if self._is_blind else Fitness()

    def execute(self, works, carrier):
        for work in works:
            time.sleep(1)
            if work.subject == "p9" and not (self._folder / "died").exists():
                (self._folder / "died").touch()
                os._exit(9)
            yield ("done", Done(work, "done"))


class PoolOnBadNode(RayPool):
    actor_class = ActorOnBadNode


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that gives away nothing, as KubeRay's usual one; the tests add nodes and remove them."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", made.address)
        yield made
    made.shutdown()


@contextmanager
def nodes(cluster: Cluster, *sizes: tuple[float, float]) -> Iterator[list[Any]]:
    """Nodes of so many CPUs and GPUs each, for a block."""
    added = [cluster.add_node(num_cpus=cpus, num_gpus=gpus) for cpus, gpus in sizes]
    try:
        yield added
    finally:
        for node in added:
            cluster.remove_node(node)
        cluster.wait_for_nodes(WAIT_SECONDS)  # until Ray knows that they are gone


def settings(
    folder: Path, device: str, threads: int = 0, store: str = "s3://bucket", seconds_to_start: float = 0
) -> WorkerSettings:
    return WorkerSettings(
        store=store, s3=S3Settings(), precision="float32", device=device, faces_backend="", scorers="",
        slots=1, batch=1, threads=threads, models=(ModelRef("base", "base", str(folder)),),
        checkpoint_seconds=seconds_to_start,
    )  # fmt: skip


def given(folder: Path) -> Counter[str]:
    """What the actors that were ever started had -> how many had it."""
    return Counter(path.read_text() for path in folder.iterdir())


def run(pool: RayPool, count: int) -> list[str]:
    """The outcomes of as many works that need the base model."""
    weights = {"base": "b" * 64}
    works = [
        Work(f"p{n}", "common", StageCall("personalize", 1, {"who": n}, weights=weights), {}, "g")
        for n in range(count)
    ]
    found: list[str] = []
    pool.execute(works, lambda *_: None, lambda done: found.append(done.status), lambda: False)
    return found


def demands(cluster: Cluster) -> set[str]:
    """What an autoscaler sees that there is no room for."""
    state = get_cluster_resource_state(GcsClient(cluster.address))
    found = set()
    for each in state.pending_resource_requests:
        bundle = dict(each.request.resources_bundle)
        found.add(f"{bundle.get('CPU', 0):g} CPU {bundle.get('GPU', 0):g} GPU")
    return found


SHAPES = [
    # nodes, device, threads, workers, GPUs of a worker; then each worker's share, and how many there are
    pytest.param([(4, 0)], "auto", 0, 0, 1.0, {"4 CPU 0 GPU 4 threads": 1}, id="one node without a GPU"),
    pytest.param(
        [(6, 0), (2, 1), (2, 1)], "auto", 0, 0, 1.0,
        {"1 CPU 1 GPU 1 threads": 2, "1 CPU 0 GPU 1 threads": 4}, id="a large head, two small nodes with a GPU",
    ),
    pytest.param([(3, 0), (3, 0)], "cpu", 5, 0, 1.0, {"3 CPU 0 GPU 3 threads": 2}, id="more threads than a node has"),
    pytest.param(
        [(6, 0), (2, 0), (2, 0)], "cpu", 0, 0, 1.0, {"2 CPU 0 GPU 2 threads": 5}, id="one node larger than the others"
    ),
    pytest.param([(4, 2)], "cuda", 0, 0, 0.5, {"1 CPU 0.5 GPU 1 threads": 4}, id="two workers on each GPU"),
    pytest.param(
        [(4, 2)], "cuda", 0, 0, 0.6,
        {"1 CPU 0.6 GPU 1 threads": 2, "1 CPU 0 GPU 1 threads": 2}, id="more than half a GPU for each worker",
    ),
    pytest.param([(1, 2)], "cuda", 0, 0, 1.0, {"0.5 CPU 1 GPU 1 threads": 2}, id="more GPUs than CPUs"),
    pytest.param([(0, 1)], "cuda", 0, 0, 1.0, {"0 CPU 1 GPU 1 threads": 1}, id="a GPU without a CPU"),
    pytest.param(
        [(8, 2), (2, 1)], "cuda", 0, 0, 1.0,
        {"1 CPU 1 GPU 1 threads": 3, "1 CPU 0 GPU 1 threads": 6}, id="two kinds of GPU nodes",
    ),
    pytest.param([(4, 0), (4, 0)], "cpu", 0, 3, 1.0, {"2 CPU 0 GPU 2 threads": 3}, id="a fixed number on several nodes"),
    pytest.param(
        [(4, 4)], "cuda", 0, 0, 2.0,
        {"1 CPU 2 GPU 1 threads": 2, "1 CPU 0 GPU 1 threads": 2}, id="two GPUs for each worker",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("sizes", "device", "threads", "workers", "gpus", "expected"), SHAPES)
def test_a_cluster_of_this_shape_is_used(cluster, tmp_path, sizes, device, threads, workers, gpus, expected):
    with nodes(cluster, *sizes):
        pool = LightPool(
            settings(tmp_path, device, threads),
            "test",
            workers=workers,
            gpus_per_worker=gpus,
            wait_seconds=WAIT_SECONDS,
        )
        try:
            assert run(pool, 2) == ["done"] * 2
            assert given(tmp_path) == expected
        finally:
            pool.close()


def test_what_others_have_of_a_gpu_is_counted_on_that_gpu(cluster, tmp_path):
    with nodes(cluster, (4, 2)):
        ray.init(address=cluster.address, log_to_driver=False, namespace="others")
        try:
            found = [_room_of_gpus()]
            held = []
            for _ in range(2):
                held.append(
                    LightActor.options(num_cpus=0, num_gpus=0.6).remote(settings(tmp_path, "cuda"), "x")
                )
                ray.get(held[-1].ready.remote())
                found.append(_room_of_gpus())
        finally:
            ray.shutdown()
    # Free are 2, 1.4 and 0.8 in all: the last as 0.4 on each GPU.
    assert found == [{0.6: 2, 0.4: 4, 1.0: 2}, {0.6: 1, 0.4: 3, 1.0: 1}, {0.6: 0, 0.4: 2, 1.0: 0}]


def _room_of_gpus() -> dict[float, int]:
    """How many workers of so much of a GPU fit, once Ray's head has heard of what is used."""
    time.sleep(2)
    return {gpus: free_capacity(Share(0, gpus)) for gpus in (0.6, 0.4, 1.0)}


class _Opening(threading.Thread):
    """Opens a pool and runs works in a thread, since Ray starts nodes in the main thread only."""

    def __init__(self, folder: Path, count: int, kind: type[RayPool] = LightPool, **options: Any):
        super().__init__(daemon=True)
        self.pool: RayPool | None = None
        self.outcomes: list[str] = []
        self.error: BaseException | None = None
        of_pool = {name: options.pop(name) for name in ("may_come", "shared_store") if name in options}
        self._count = count
        self._open = lambda: kind(settings(folder, **options), "test", workers=0, **of_pool)

    def run(self) -> None:
        try:
            self.pool = self._open()
            self.outcomes = run(self.pool, self._count)
        except BaseException as error:
            self.error = error

    def wait_for(self, found: Any, what: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not found():
            assert self.error is None and time.monotonic() < deadline, (what, self.error)
            time.sleep(0.2)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_scaled_to_zero_the_autoscaler_sees_what_is_asked_for(cluster, tmp_path, device):
    opening = _Opening(tmp_path, 12, device=device, may_come=nodes_that_may_come(["2 x 4 CPU, 1 GPU"]))
    opening.start()
    opening.wait_for(lambda: demands(cluster) == {"2 CPU 1 GPU"}, "the first request")
    with nodes(cluster, (4, 1)):
        # Work begins with one worker, and batches that wait ask for another.
        opening.wait_for(
            lambda: opening.pool is not None and "2 CPU 1 GPU" in demands(cluster), "the second request"
        )
        with nodes(cluster, (4, 1)):
            opening.join(WAIT_SECONDS)
            assert opening.outcomes == ["done"] * 12, opening.error
            assert opening.pool is not None
            assert given(tmp_path)["2 CPU 1 GPU 2 threads"] == 2
            opening.pool.close()


def test_nodes_that_the_configuration_does_not_name_are_waited_for(cluster, tmp_path):
    # The node is seen before a worker on it is ready.
    opening = _Opening(tmp_path, 2, device="cuda", seconds_to_start=10)
    opening.start()
    opening.wait_for(lambda: demands(cluster) == {"1 CPU 1 GPU"}, "the request")
    with nodes(cluster, (4, 1)):
        opening.join(WAIT_SECONDS)
        assert opening.outcomes == ["done"] * 2, opening.error
        opening.pool.close()
    # Asked again when the node was there, by its CPUs: half of them.
    assert given(tmp_path)["2 CPU 1 GPU 2 threads"] == 1


def test_a_node_that_is_smaller_than_what_was_asked_for_is_used(cluster, tmp_path):
    opening = _Opening(tmp_path, 2, device="cpu", threads=4)
    opening.start()
    opening.wait_for(lambda: demands(cluster) == {"4 CPU 0 GPU"}, "the request")
    with nodes(cluster, (2, 0)):
        opening.join(WAIT_SECONDS)
        assert opening.outcomes == ["done"] * 2, opening.error
        assert given(tmp_path) == {"2 CPU 0 GPU 2 threads": 1}
        opening.pool.close()


def test_what_no_node_of_the_autoscaler_has_is_refused_at_once(cluster, tmp_path):
    may_come = nodes_that_may_come(["8 x 4 CPU"])
    with pytest.raises(ConfigurationError, match=r"room for 0 of 1.*1 GPU.*4 CPU \(up to 8 more\)"):
        LightPool(settings(tmp_path, "cuda"), "test", workers=0, wait_seconds=WAIT_SECONDS, may_come=may_come)
    assert not ray.is_initialized()


def test_resources_that_others_hold_are_waited_for_and_said(cluster, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("tasks.workers._REPORT_AFTER_SECONDS", 1.0)
    with nodes(cluster, (2, 0)):
        ray.init(address=cluster.address, log_to_driver=False, namespace="others")
        holder = LightActor.options(num_cpus=2).remote(settings(tmp_path, "cpu"), "other")
        ray.get(holder.ready.remote())
        with caplog.at_level(logging.WARNING, "tasks.workers"), pytest.raises(ConfigurationError) as refused:
            LightPool(settings(tmp_path, "cpu"), "test", workers=0, wait_seconds=5)
        ray.shutdown()
    assert (
        "waiting for 1 more, each with 2 CPU" in caplog.text
        and "execution.worker_wait_seconds" in caplog.text
    )
    assert "1 node(s) with 2 CPU" in str(refused.value)


def probes(store: Path) -> list[Path]:
    return list((store / "doctor").iterdir()) if (store / "doctor").is_dir() else []


def test_a_folder_is_shared_only_if_every_node_reads_the_probe(cluster, tmp_path, monkeypatch):
    from tasks import shared_folder

    store, actors = tmp_path / "store", tmp_path / "actors"
    actors.mkdir()
    with nodes(cluster, (2, 0)):
        given_store = settings(actors, "cpu", store=str(store))
        with pytest.raises(ConfigurationError, match=r"execution\.shared_store if it is"):
            LightPool(given_store, "test", workers=0)
        pool = LightPool(given_store, "test", workers=0, shared_store=True, wait_seconds=WAIT_SECONDS)
        (probe,) = probes(store)
        of_others = probe.with_name(f"{probe.name}-of-another-run")
        of_others.touch()
        pool.close()
        assert probes(store) == [of_others], "the probe is gone, and nothing else"
        # A file that a process of the node has written is not seen by this process: each looks for its own.
        monkeypatch.setattr(
            shared_folder, "_reply", lambda probe, _: probe.with_name(f"{probe.name}-{os.getpid()}")
        )
        with pytest.raises(ConfigurationError, match="not read back on"):
            LightPool(given_store, "test", workers=0, shared_store=True)


def test_a_folder_is_refused_while_only_the_head_of_a_cluster_is_there(cluster, tmp_path):
    may_come = nodes_that_may_come(["2 x 2 CPU"])
    with pytest.raises(ConfigurationError, match=r"join later.*execution\.shared_store if it is"):
        LightPool(
            settings(tmp_path, "cpu", store=str(tmp_path / "store")), "test", workers=0, may_come=may_come
        )
    assert not ray.is_initialized() and not (tmp_path / "store").exists()


def test_a_node_that_joins_later_must_read_the_probe(cluster, tmp_path):
    """Removing the probe stands for a node on which the folder is another one."""
    actors, store = tmp_path / "actors", tmp_path / "store"
    actors.mkdir()
    opening = _Opening(actors, 2, device="cpu", store=str(store), shared_store=True)
    opening.start()
    opening.wait_for(lambda: demands(cluster), "the request")
    (probe,) = probes(store)
    probe.unlink()
    with nodes(cluster, (2, 0)) as (node,):
        opening.join(WAIT_SECONDS)
        assert isinstance(opening.error, ConfigurationError)
        assert f"not read back on {node.node_ip_address};" in str(opening.error)
    assert not ray.is_initialized()


def test_work_goes_on_without_a_later_node_that_does_not_read_the_probe(cluster, tmp_path, caplog):
    actors, store = tmp_path / "actors", tmp_path / "store"
    actors.mkdir()
    with nodes(cluster, (1, 0)), caplog.at_level(logging.ERROR, "tasks.workers"):
        opening = _Opening(actors, 20, device="cpu", store=str(store), shared_store=True)
        opening.start()
        opening.wait_for(lambda: opening.pool, "the first worker")
        (probe,) = probes(store)
        probe.unlink()
        with nodes(cluster, (1, 0)):
            opening.join(WAIT_SECONDS)
            assert opening.outcomes == ["done"] * 20, opening.error
            assert opening.pool is not None
            assert "not used: execution.shared_store" in caplog.text and len(opening.pool.usage().idle) == 1
            opening.pool.close()


def mark(folder: Path, what: str, *found: Any) -> None:
    """Say of nodes what they cannot do."""
    (folder / what).mkdir(parents=True, exist_ok=True)
    for node in found:
        (folder / what / node.node_id).touch()


def starts(folder: Path, node: Any) -> int:
    """How many workers were started on a node."""
    return len(list(folder.glob(f"{node.node_id} *")))


def test_a_node_that_does_not_see_the_store_is_left_out_and_a_lost_worker_is_replaced_elsewhere(
    cluster, tmp_path
):
    store, actors = tmp_path / "store", tmp_path / "actors"
    actors.mkdir()
    with nodes(cluster, (1, 0)) as (good,):
        opening = _Opening(actors, 24, PoolOnBadNode, device="cpu", store=str(store), shared_store=True)
        opening.start()
        opening.wait_for(lambda: opening.pool, "the first worker")
        added = cluster.add_node(num_cpus=1)
        mark(actors, "blind", added)
        try:
            opening.join(WAIT_SECONDS)
            assert opening.outcomes == ["done"] * 24, opening.error
            assert opening.pool is not None and opening.pool.usage().replaced == 1
            assert (starts(actors, good), starts(actors, added)) == (2, 1)
            opening.pool.close()
        finally:
            cluster.remove_node(added)
            cluster.wait_for_nodes(WAIT_SECONDS)


def test_a_node_on_which_workers_end_at_once_leaves_the_others_their_time_to_start(cluster, tmp_path, caplog):
    with nodes(cluster, (3, 0), (1, 0)) as (bad, good), caplog.at_level(logging.ERROR, "tasks.workers"):
        mark(tmp_path, "broken", bad)
        given = settings(tmp_path, "cpu", threads=1, seconds_to_start=12)
        pool = PoolOnBadNode(given, "test", workers=0, wait_seconds=WAIT_SECONDS)
        try:
            assert run(pool, 2) == ["done"] * 2
            assert (starts(tmp_path, bad), starts(tmp_path, good)) == (3, 1)
            assert f"no further worker is started on node {bad.node_id}" in caplog.text
        finally:
            pool.close()


@pytest.mark.parametrize("what", ["blind", "broken"])
def test_without_any_node_that_can_do_it_the_run_ends_with_the_cause(cluster, tmp_path, what):
    store = str(tmp_path / "store") if what == "blind" else "s3://bucket"
    with nodes(cluster, (1, 0), (1, 0)) as bad:
        mark(tmp_path, what, *bad)
        given = settings(tmp_path, "cpu", store=store)
        with pytest.raises(
            ConfigurationError, match={"blind": "not read back on", "broken": "cannot do it"}[what]
        ):
            PoolOnBadNode(given, "test", workers=0, wait_seconds=WAIT_SECONDS, shared_store=True)
        assert {starts(tmp_path, node) for node in bad} == {{"blind": 1, "broken": 3}[what]}
    assert not ray.is_initialized()
