"""Two runs on one store: the second waits or is refused, a dead one is taken over, a slow one finds out."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from faceid_core.store import RunLease, StoreBusy, lease


def age(store, **changed):
    """Rewrite the lease as another machine would have left it."""
    data, etag = store.get_with_etag(lease.NAME)
    store.replace_if_match(lease.NAME, json.dumps(json.loads(data) | changed).encode(), etag)


def test_a_second_run_is_refused_until_the_first_has_ended(any_store):
    refused = pytest.raises(StoreBusy, match=r"run first on .* is using")
    with RunLease.acquire(any_store, "first", ttl=5), refused:
        RunLease.acquire(any_store, "second", on_busy="refuse")
    with RunLease.acquire(any_store, "second", on_busy="refuse") as held:
        assert held.run_id == "second" and not held.lost


def test_a_second_run_waits_for_the_first(folder_store):
    order = []

    def second():
        with RunLease.acquire(folder_store, "second", ttl=0.4):
            order.append("second has it")

    with RunLease.acquire(folder_store, "first", ttl=0.4):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(1.2)  # three times the ttl: only renewals keep it
        order.append("first is done")
    waiting.join(10)
    assert order == ["first is done", "second has it"]


def test_only_one_of_many_gets_a_free_lease(folder_store):
    won, lost = [], []

    def attempt(number):
        try:
            won.append(RunLease.acquire(folder_store, str(number), ttl=5, on_busy="refuse"))
        except StoreBusy:
            lost.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    won[0].release()


def test_a_dead_runs_lease_is_taken_over_and_the_dead_one_learns_of_it(any_store):
    dead = RunLease.acquire(any_store, "dead", ttl=0.4)
    dead._stop.set()
    dead._thread.join()
    age(any_store, host="another-machine", renewed=time.time() - 1)
    with RunLease.acquire(any_store, "next", on_busy="refuse") as held:
        dead._renew_once()
        assert dead.lost and not held.lost
        dead.release()
        assert json.loads(any_store.get(lease.NAME))["run_id"] == "next"


def test_a_worker_that_was_stopped_leaves_the_lease_of_its_successor_alone(folder_store):
    name = "identities/x/leases/personalize/y.json"
    stopped = RunLease.try_take(folder_store, "stopped", name, ttl=0.3)
    stopped._stop.set()
    stopped._thread.join()
    time.sleep(0.4)
    following = RunLease.try_take(folder_store, "next", name)
    stopped._stop.clear()
    stopped.drop()
    assert json.loads(folder_store.get(name))["run_id"] == "next"
    following.drop()
    assert folder_store.head(name) is None


def test_a_holder_whose_clock_runs_ahead_is_taken_over_by_ours(folder_store):
    dead = RunLease.acquire(folder_store, "dead", ttl=0.4)
    dead._stop.set()
    dead._thread.join()
    age(folder_store, host="another-machine", renewed=time.time() + 3600)
    started = time.monotonic()
    RunLease.acquire(folder_store, "next", ttl=0.4).release()
    assert 0.4 < time.monotonic() - started < 3


def test_a_run_killed_on_this_machine_is_not_waited_for(folder_store):
    code = (
        "import os, signal, sys; from faceid_core.store import RunLease, open_store;"
        "RunLease.acquire(open_store(sys.argv[1]), 'killed', ttl=600); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, folder_store.url]).returncode == -9
    assert folder_store.head(lease.NAME)
    RunLease.acquire(folder_store, "next", on_busy="refuse").release()


def test_a_damaged_lease_locks_nobody_out(folder_store):
    RunLease.acquire(folder_store, "first", ttl=600)._stop.set()
    etag = folder_store.head(lease.NAME).etag
    folder_store.replace_if_match(lease.NAME, b"{", etag)
    RunLease.acquire(folder_store, "next", on_busy="refuse").release()
    assert os.getpid() == json.loads(folder_store.get(lease.NAME))["process"]
