"""The Ray pool when workers die, hang or meet bad work: the others finish, and the outcome reports say which did not."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from faceid_core.cpus import available_cpus
from faceid_core.errors import ConfigurationError
from faceid_core.stages.models import WorkerSettings
from faceid_core.stages.work import Done, Work
from faceid_core.store import S3Settings
from faceid_core.store.keys import StageCall
from faceid_core.weights.required import ModelRef
from tasks.fitness import Fitness
from tasks.pool import RayPool, _Attempt


@ray.remote(max_restarts=0, max_task_retries=0)
class TroubledActor:
    """Stands in for a worker: what happens to a subject is written in its name, attempts are counted in a folder."""

    def __init__(self, settings: WorkerSettings, run_id: str):
        # A bucket's worker counts in the folder that stands where a base model would.
        self._folder = Path(settings.models[0].name if settings.models else settings.store)
        self._device = settings.device

    def ready(self, probe):
        return Fitness()

    def execute(self, works, carrier):
        for work in works:
            count = len(list(self._folder.glob(f"{work.subject}-*")))
            (self._folder / f"{work.subject}-{count}-{os.getpid()}").write_text(self._device)
            yield ("progress", (work.subject, 0, 1))
            if "dies" in work.subject or ("once" in work.subject and count == 0):
                os._exit(9)
            if "hangs" in work.subject:
                time.sleep(600)
            if "slow" in work.subject:
                time.sleep(1)
            reason = "it_does" if "fails" in work.subject else None
            reason = "SlotStopped" if "diverges" in work.subject else reason
            yield ("done", Done(work, "failed" if reason else "done", reason=reason))


class TroubledPool(RayPool):
    actor_class = TroubledActor


@pytest.fixture
def pool(tmp_path):
    settings = worker_settings(tmp_path, slots=2)
    made = TroubledPool(settings, "test", workers=1, attempts=2, stall_seconds=6)
    yield made
    made.close()
    assert not ray.is_initialized()


def run(pool, *subjects: str, stage: str = "detect", found=None) -> dict[str, Done]:
    """The outcome of each subject, put into `found` as they come."""
    works = [Work(s, "common", StageCall(stage, 1, {"who": s}), {}, stage) for s in subjects]
    found = {} if found is None else found
    sent = {work.subject: work.call.parameters for work in works}

    def on_done(done: Done) -> None:
        assert done.work.subject not in found, "one outcome each"
        assert done.work.call.parameters is sent[done.work.subject], "what came back keeps none of its own"
        found[done.work.subject] = done

    pool.execute(works, lambda *_: None, on_done, lambda: False)
    return found


def test_a_dead_a_stuck_and_a_failing_person_cost_nobody_else(pool):
    found = run(pool, "ann", "once", "dies", "fails", "hangs", "bob")
    assert {name: done.status for name, done in found.items()} == {
        "ann": "done", "once": "done", "dies": "failed", "fails": "failed", "hangs": "failed", "bob": "done",
    }  # fmt: skip
    assert found["once"].attempts >= 2, "the attempt that a dead worker cost is on record"
    assert found["dies"].reason == found["hangs"].reason == "worker_lost"
    assert "no progress" in found["hangs"].message
    assert found["fails"].attempts >= 2 and found["fails"].reason == "it_does"
    assert pool.usage().replaced >= 4, "a worker for each loss"
    again = run(pool, "cleo")
    assert again["cleo"].status == "done", "the pool goes on after all that"


def test_what_runs_beside_waits_until_no_work_of_any_call_waits_for_a_worker(tmp_path):
    """Floor and ceiling take no worker from a person who is still to be learned, in whatever chunk."""
    pool = TroubledPool(worker_settings(tmp_path, slots=1), "test", workers=2)
    found: list[dict[str, Done]] = [{}, {}]

    def call(number: int, names: list[str], beside: list[str]) -> None:
        pool.execute(
            [work_of(name, "personalize", base=True) for name in names],
            lambda *_: None,
            lambda done: found[number].__setitem__(done.work.subject, done),
            lambda: False,
            beside=[work_of(name, "generate", base=True) for name in beside],
        )

    try:
        calls = [
            threading.Thread(target=call, args=(0, ["slow-a", "slow-b"], ["word-a", "word-b"])),
            threading.Thread(target=call, args=(1, [f"slow-{number}" for number in range(5)], [])),
        ]
        for thread in calls:
            thread.start()
        for thread in calls:
            thread.join()
        assert {done.status for each in found for done in each.values()} == {"done"} and len(found[0]) == 4
        began = {path.name.split("-0-")[0]: path.stat().st_mtime_ns for path in tmp_path.glob("*-0-*")}
        words = [began[name] for name in ("word-a", "word-b")]
        # Each takes a second; on a busy machine one that is handed out first may begin a little later.
        assert min(words) > max(at for name, at in began.items() if name.startswith("slow")) - 5e8
        stopped: list[Done] = []
        pool.execute([], lambda *_: None, stopped.append, lambda: True, beside=[work_of("late", "generate", base=True)])
        assert [done.status for done in stopped] == ["not_reached"]

        class Workers:
            """A person's batch comes while floor or ceiling waits for a worker, and takes the one that is given back."""

            asked, given_back = 0, []

            def acquire(self):
                self.asked += 1
                if self.asked == 1:
                    pool._turns.add([_Attempt([])])
                return f"worker {self.asked}"

            def release(self, actor):
                self.given_back.append(actor)
                pool._turns.add([_Attempt([])], -1)

        workers = Workers()
        assert pool._acquire(workers, _Attempt([], is_beside=True), lambda: False) == "worker 2"
        assert workers.given_back == ["worker 1"]
    finally:
        pool.close()


def test_many_calls_at_once_share_the_threads_of_the_pool(tmp_path, monkeypatch):
    """A thousand people's scores are 250 chunks of 32 batches: a thread for each of them would leave no time for work."""
    monkeypatch.setattr("tasks.pool._MOST_THREADS", 3)
    pool = TroubledPool(worker_settings(tmp_path), "test", workers=1)
    before, most = threading.active_count(), 0
    try:
        calls = [[f"call{number}-{each}" for each in range(12)] for number in range(5)]
        found: list[dict[str, Done]] = [{} for _ in calls]
        running = [
            threading.Thread(
                target=run, args=(pool, *names), kwargs={"stage": "score-detection", "found": dones}
            )
            for names, dones in zip(calls, found, strict=True)
        ]
        for thread in running:
            thread.start()
        while any(thread.is_alive() for thread in running):
            most = max(most, threading.active_count() - before - len(running))
            time.sleep(0.01)
        assert [set(dones) for dones in found] == [set(names) for names in calls]
        assert {done.status for dones in found for done in dones.values()} == {"done"}
        assert len(running) <= most <= len(running) + 3 + 2, (
            "one for each call, three more, and some of Ray's own"
        )
        assert pool._spare_threads.acquire(blocking=False), "what ended was given back"
    finally:
        pool.close()


def test_a_person_who_diverges_is_not_trained_over_and_over(pool, tmp_path):
    found = run(pool, "ann", "diverges")
    assert (found["diverges"].status, found["diverges"].attempts) == ("failed", 1)
    assert len(list(tmp_path.glob("diverges-*"))) == 1 and found["ann"].status == "done"


def worker_settings(store, **changes) -> WorkerSettings:
    usual = {
        "s3": S3Settings(), "precision": "float32", "device": "cpu", "faces_backend": "", "scorers": "", "slots": 1,
        "batch": 1, "threads": 1,
    }  # fmt: skip
    return WorkerSettings(store=str(store), **usual | changes)


def work_of(subject: str, stage: str, *, base: bool = False) -> Work:
    weights = {"base": "b" * 64} if base else {}
    return Work(subject, "common", StageCall(stage, 1, {"who": subject}, weights=weights), {}, stage)


@pytest.mark.exhaustive
def test_what_an_outcome_makes_possible_runs_beside_the_rest_on_workers_without_a_gpu(tmp_path):
    settings = worker_settings(tmp_path, device="cuda", threads=4)
    ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
    pool = None
    try:
        pool = TroubledPool(settings, "test", workers=1)
        assert pool.overlaps and len(pool.usage().idle) == 2, "half of the CPUs are the other worker's"
        ends: dict[str, float] = {}

        def on_done(done: Done) -> list[Work]:
            ends[f"{done.work.call.stage} {done.work.subject}"] = time.monotonic()
            drawn = done.work.call.stage == "personalize"
            return [work_of(done.work.subject, "score-detection")] if drawn else []

        names = [f"slow-{number}" for number in range(6)]
        works = [work_of(name, "personalize", base=True) for name in names]
        pool.execute(works, lambda *_: None, on_done, lambda: False)
        assert len(ends) == 12
        assert ends["score-detection slow-0"] < ends["personalize slow-5"], (
            "it did not wait for the stage's end"
        )
        devices = [{path.read_text() for path in tmp_path.glob(f"slow-*-{n}-*")} for n in (0, 1)]
        assert devices == [{"cuda"}, {"cpu"}], "who has no GPU must not ask for one"
        pids = {path.name.rsplit("-", 1)[1] for path in tmp_path.glob("slow-*-0-*")}
        assert (
            len(pids) == 1
            and len({p.name.rsplit("-", 1)[1] for p in tmp_path.glob("slow-*-1-*")} - pids) == 1
        )
    finally:
        if pool:
            pool.close()
        ray.shutdown()


def test_the_time_without_work_is_measured(pool):
    time.sleep(1)
    run(pool, "slow-ann", "slow-bob")
    (idle,) = pool.usage().idle
    assert 0.1 < idle < 0.9 and pool.usage().replaced == 0


@pytest.mark.exhaustive
def test_workers_come_and_go_with_the_nodes_of_a_cluster(tmp_path, monkeypatch):
    """Two, then three, then one node of a real cluster, all on this machine; RAY_ADDRESS says where it is."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    leaving = cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    settings = worker_settings("s3://bucket", models=(ModelRef("base", "base", str(tmp_path)),))
    pool = None
    try:
        pool = TroubledPool(settings, "test", workers=0, attempts=2, stall_seconds=60)
        found: dict[str, Done] = {}
        names = [f"slow-{number}" for number in range(80)]
        options = {"stage": "personalize", "found": found}  # a stage whose batches are as long as the slots
        thread = threading.Thread(target=run, args=(pool, *names), kwargs=options)
        thread.start()

        def wait_for(workers: int) -> None:
            while len(pool.usage().idle) != workers and thread.is_alive():
                time.sleep(0.05)
            assert thread.is_alive() and len(pool.usage().idle) == workers

        # Ray starts and stops nodes in the main thread only.
        wait_for(2)
        cluster.add_node(num_cpus=1)
        wait_for(3)
        cluster.remove_node(leaving, allow_graceful=False)
        wait_for(2)
        thread.join(120)
        assert {done.status for done in found.values()} == {"done"} and len(found) == 80
        assert pool.usage().replaced == 1 and len(pool.usage().idle) == 2
        assert max(done.attempts for done in found.values()) == 2, (
            "the attempt that the lost node cost is on record"
        )
    finally:
        if pool:
            pool.close()
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.exhaustive
def test_workers_are_as_nice_as_configured_and_have_the_cpus_of_this_process(tmp_path):
    settings = worker_settings(tmp_path, slots=2, threads=0)
    pool = TroubledPool(settings, "test", workers=0, niceness=3)
    try:
        assert ray.cluster_resources()["CPU"] == available_cpus() and len(pool.usage().idle) == 1
        run(pool, "ann")
        (path,) = tmp_path.glob("ann-*")
        assert psutil.Process(int(path.name.rsplit("-", 1)[1])).nice() - os.nice(0) == 3
    finally:
        pool.close()


def test_what_was_not_begun_when_the_run_stops_is_not_reached(pool):
    works = [Work(s, "common", StageCall("mask", 1, {"who": s}), {}, "mask") for s in "abc"]
    found = []
    pool.execute(works, lambda *_: None, found.append, lambda: True)
    assert [done.status for done in found] == ["not_reached"] * 3


def test_an_error_in_the_account_is_raised_and_not_swallowed(pool):
    def on_done(done: Done) -> None:
        raise OSError("the store is gone")

    work = Work("ann", "common", StageCall("mask", 1, {}), {}, "mask")
    with pytest.raises(OSError, match="the store is gone"):
        pool.execute([work], lambda *_: None, on_done, lambda: False)


def test_more_workers_than_there_is_room_for_are_refused_at_once(tmp_path):
    settings = worker_settings(tmp_path, slots=2, threads=available_cpus())
    with pytest.raises(ConfigurationError, match="room for 1 of 2 workers"):
        TroubledPool(settings, "test", workers=2)
    assert not ray.is_initialized()


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="needs a machine without CUDA, to make up a GPU that is not there"
)
def test_a_gpu_that_torch_does_not_see_is_said_and_where_cuda_is_asked_for_refused(tmp_path, caplog):
    """A broken driver else shows as a night that takes fifty times as long, or as a failure of every person."""
    ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    try:
        with caplog.at_level(logging.WARNING, "tasks.workers"):
            pool = RayPool(worker_settings(tmp_path, device="auto", threads=1), "test", workers=1)
        pool.close()
        assert "finds no CUDA device" in caplog.text and "computes on the CPU" in caplog.text
        with pytest.raises(ConfigurationError, match=r"finds no CUDA device.*base_model\.device: cuda"):
            RayPool(worker_settings(tmp_path, device="cuda", threads=1), "test", workers=1)
    finally:
        ray.shutdown()
