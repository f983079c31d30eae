"""What stands in a lease is checked, dates in it decide nothing, and only a certain death frees it before its time."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import socket
import subprocess
import sys
import time

import pytest

from faceid_core.store import RunLease, StoreBusy, lease, lease_record
from faceid_core.store.keys import canonical_json
from faceid_core.store.lease import NAME, abandoned_leases, running_runs
from faceid_core.store.lease_record import LeaseState, LeaseWatch, own_record, process_token, read_record

HOUR = 3600.0
WRONG = (
    None, True, False, "", "x\ny", "1", [], [1], {}, {"a": 1}, -1, 0, 2**70, -(2**70), 1e308, 0.5,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
# Of these fields some of the wrong values are right ones.
RIGHT = {
    "run_id": ("1",), "holder": ("1",), "host": ("1",), "renewed": (0, 0.5), "ttl": (0.5,),
    "released": (True, False), "process_token": ("", "1"), "boot_id": ("", "1"), "pid_namespace": ("", "1"),
    "process_started": (None, 0),
}  # fmt: skip


def foreign(**changed) -> dict:
    """A record that a run on another machine just wrote."""
    record = json.loads(own_record("20261125-nightly-a", "aa", 60.0).to_bytes())
    return record | {"host": "another", "boot_id": "b" * 36} | changed


def same(value, other) -> bool:
    return type(value) is type(other) and (value == other or value != value)


def nonsense() -> list[tuple[str, bytes]]:
    whole = foreign()
    found = []
    for field in whole:
        required = field not in ("process_token", "boot_id", "pid_namespace", "process_started")
        if required:
            found.append((f"no {field}", json.dumps({k: v for k, v in whole.items() if k != field}).encode()))
        for value in WRONG:
            if not any(same(value, right) for right in RIGHT.get(field, ())):
                found.append((f"{field}={value!r}", json.dumps(whole | {field: value}).encode()))
    found += [(f"ttl={ttl}", json.dumps(whole | {"ttl": ttl}).encode()) for ttl in (601, 1e9, -5.0)]
    found += [(f"process={p}", json.dumps(whole | {"process": p}).encode()) for p in (2**31, 1.0)]
    found.append(("twice wrapped", json.dumps(json.dumps(whole)).encode()))
    found += [
        (repr(data[:12]), data) for data in (b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"7")
    ]
    return found


def test_a_record_of_a_later_version_is_a_lease(folder_store):
    folder_store.replace_if_match(NAME, json.dumps(foreign(more=1)).encode(), None)
    assert running_runs(folder_store) == ["20261125-nightly-a"]


def test_nonsense_is_no_lease_and_is_said_once(folder_store, caplog):
    caplog.set_level(logging.WARNING)
    name = "identities/x/leases/personalize/y.json"
    cases = nonsense()
    assert len(cases) > 150
    etag = None
    for number, (what, data) in enumerate(cases):
        caplog.clear()
        etag = folder_store.replace_if_match(NAME, data, etag)
        assert running_runs(folder_store) == [], what
        if number % 10:
            continue  # the rest is the same for all of them
        with RunLease.acquire(folder_store, "next", on_busy="refuse") as held:
            assert held.name == NAME, what
        etag = folder_store.head(NAME).etag
        folder_store.put_if_absent(name, data)
        taken = RunLease.try_take(folder_store, "next", name)
        assert taken is not None, what
        taken.drop()
        (of_the_run,) = [line for line in caplog.messages if line.startswith(NAME)]
        assert "it counts as free" in of_the_run and len(of_the_run) < 400


def test_a_nonsense_lease_is_taken_over_at_once(any_store):
    any_store.put_if_absent(NAME, json.dumps(foreign(renewed=float("nan"))).encode())
    RunLease.acquire(any_store, "next", on_busy="refuse").release()


def test_what_we_write_and_what_earlier_versions_wrote_can_be_read():
    ours = own_record("20261125-nightly-a", "aa", 60.0)
    assert read_record(ours.to_bytes(), "x") == ours and ours.boot_id and ours.process_started
    earlier = {k: v for k, v in foreign().items() if k in
               ("run_id", "holder", "host", "process", "renewed", "ttl", "released")}  # fmt: skip
    record = read_record(canonical_json(earlier), "x")
    assert record is not None and record.boot_id == "" and not lease_record.has_died(record)


@pytest.mark.parametrize("offset", [HOUR, -HOUR, 1e9], ids=["ahead", "behind", "years ahead"])
def test_a_dead_lease_of_any_date_frees_the_store_after_its_ttl_of_our_clock(folder_store, offset):
    folder_store.put_if_absent(NAME, canonical_json(foreign(renewed=time.time() + offset, ttl=0.4)))
    folder_store.put_if_absent(
        "leases/beside-b.json", canonical_json(foreign(renewed=time.time() + offset, ttl=0.4, run_id="b"))
    )
    began = time.monotonic()
    said: list[str] = []
    assert running_runs(folder_store, report=said.append) == []
    assert 0.4 < time.monotonic() - began < 3
    assert len(said) == 1 and "run b on another" in said[0]
    assert sorted(running_runs(folder_store, wait=False)) == ["20261125-nightly-a", "b"], "in doubt counts"
    began = time.monotonic()
    with RunLease.acquire(folder_store, "next", on_busy="refuse"):
        assert 0.4 < time.monotonic() - began < 3


@pytest.mark.parametrize("offset", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_a_living_run_is_seen_to_live_whatever_the_clocks_say(folder_store, monkeypatch, offset):
    """Its records are an hour off, as those of a machine whose clock is wrong are."""
    real = RunLease._record

    def by_another_clock(self, **more):
        written = json.loads(real(self, **more))
        written["renewed"] += offset if self.run_id == "first" else 0.0
        return json.dumps(written | {"host": "another"}).encode()

    monkeypatch.setattr(RunLease, "_record", by_another_clock)
    with RunLease.acquire(folder_store, "first", ttl=1.0) as first:
        assert abs(json.loads(folder_store.get(NAME))["renewed"] - time.time() - offset) < 60
        assert running_runs(folder_store) == ["first"]
        with pytest.raises(StoreBusy, match="run first on another is using"):
            RunLease.acquire(folder_store, "second", ttl=1.0, on_busy="refuse")
        told = []
        with pytest.raises(TimeoutError):
            RunLease.acquire(
                folder_store, "third", ttl=1.0, waiting=lambda wait: told.append(wait) or give_up(wait)
            )
        assert not first.lost
        assert told[0].in_doubt and not told[-1].in_doubt and told[-1].run_id == "first"


def give_up(wait: lease.Wait) -> None:
    if wait.seconds > 1.5:
        raise TimeoutError


def test_an_observer_who_was_stopped_does_not_count_that_time():
    record, watch = own_record("a", "aa", 0.2), LeaseWatch()
    record = record.model_copy(update={"host": "another"})
    asked = time.monotonic()
    assert watch.judge("x", record, "1", asked).state is LeaseState.HELD
    asked = time.monotonic()
    time.sleep(0.3)  # stopped between the reading and the judgment
    assert watch.judge("x", record, "1", asked).state is not LeaseState.FREE
    assert watch.judge("x", record, "1", time.monotonic()).state is LeaseState.FREE
    assert watch.judge("x", record, "2", time.monotonic()).state is LeaseState.HELD, "it was renewed"


def test_works_of_one_dead_worker_come_free_together(folder_store):
    watch = LeaseWatch()
    names = [f"identities/x/leases/personalize/{number}.json" for number in range(5)]
    for name in names:
        folder_store.put_if_absent(name, canonical_json(foreign(renewed=time.time() + HOUR, ttl=0.3)))
        assert RunLease.try_take(folder_store, "next", name, watch) is None
    time.sleep(0.35)
    taken = [RunLease.try_take(folder_store, "next", name, watch) for name in names]
    assert all(taken)
    for each in taken:
        each.drop()


def dead_process() -> int:
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    return gone.pid


CASES = {
    # what differs from this process' own record -> whether the holder counts as dead at once
    "our own": (lambda: {}, False),
    "its process is gone": (lambda: {"process": dead_process()}, True),
    "its process id belongs to another process by now": (lambda: {"process_started": 1}, True),
    "so does it, of the parent": (lambda: {"process": os.getppid(), "process_started": 1}, True),
    "gone, of another boot": (lambda: {"process": dead_process(), "boot_id": "c" * 36}, False),
    "gone, in another container": (lambda: {"process": dead_process(), "pid_namespace": "pid:[4026599999]"}, False),
    "gone, on another host": (lambda: {"process": dead_process(), "host": "another"}, False),
    "our own id in another container": (lambda: {"process_started": 1, "pid_namespace": "pid:[4026599999]"}, False),
    "gone, on a system that does not tell": (
        lambda: {"process": dead_process(), "boot_id": "", "pid_namespace": "", "process_started": None}, False),
}  # fmt: skip


@pytest.mark.skipif(not os.path.exists("/proc/self/ns/pid"), reason="no /proc here; without it: next test")
@pytest.mark.parametrize("case", CASES)
def test_only_a_certain_death_frees_a_lease_before_its_time(folder_store, case):
    changed, dead = CASES[case]
    record = json.loads(own_record("20261125-nightly-a", "aa", 60.0).to_bytes()) | changed()
    record["process_token"] = "another"
    assert record["host"] == socket.gethostname() or case == "gone, on another host"
    folder_store.put_if_absent(NAME, canonical_json(record))
    assert running_runs(folder_store) == ([] if dead else ["20261125-nightly-a"])
    if dead:
        RunLease.acquire(folder_store, "next", on_busy="refuse").release()
    else:
        with pytest.raises(StoreBusy):
            RunLease.acquire(folder_store, "next", on_busy="refuse")


def test_without_proc_only_time_frees_a_lease(monkeypatch):
    gone = own_record("a", "aa", 60.0).model_copy(update={"process": dead_process()})
    assert lease_record.has_died(gone)

    def refuse(_):
        raise FileNotFoundError

    monkeypatch.setattr(os, "readlink", refuse)
    assert not lease_record.has_died(gone)
    assert own_record("a", "aa", 60.0).boot_id == ""


def test_a_run_takes_its_own_lease_over_only_in_the_process_that_lost_it(folder_store):
    """A retry of the run in another container may have the same run id, host name and process id."""
    name = "identities/x/leases/personalize/y.json"
    own = RunLease.try_take(folder_store, "a-run", name)
    own._stop.set()
    again = RunLease.try_take(folder_store, "a-run", name)
    assert again is not None
    again._stop.set()
    record = json.loads(folder_store.get(name)) | {"process_token": "another"}
    folder_store.replace_if_match(name, canonical_json(record), folder_store.head(name).etag)
    assert RunLease.try_take(folder_store, "a-run", name) is None


def _send_token(pipe) -> None:
    pipe.send(process_token())


def test_a_forked_child_has_a_token_of_its_own():
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_send_token, args=(theirs,))
    child.start()
    assert ours.recv() != process_token()
    child.join()


@pytest.mark.parametrize("mounted", [True, False], ids=["with its own proc", "with the host's proc"])
def test_in_a_real_namespace_another_containers_process_is_not_judged(mounted):
    unshare = ["unshare", "-r", "--pid", "--fork", *(["--mount-proc"] if mounted else [])]
    try:
        allowed = subprocess.run([*unshare, "true"], capture_output=True).returncode == 0
    except OSError:
        allowed = False
    if not allowed:
        pytest.skip("this system does not let the user make process namespaces")
    # Process 2 of the namespace does not exist, ours does, and the namespace's own process 1 is somebody else here.
    code = (
        "import sys; from faceid_core.store import lease_record as r;"
        "ours = r.read_record(sys.stdin.buffer.read(), 'x');"
        "gone = ours.model_copy(update={'process': 4000000});"
        "me = r.own_record('a', 'aa', 60.0);"
        "print(r.has_died(ours), r.has_died(gone), r.has_died(me), me.pid_namespace != ours.pid_namespace, me.process)"
    )
    ours = own_record("a", "aa", 60.0)
    done = subprocess.run(
        [*unshare, sys.executable, "-c", code], input=ours.to_bytes(), capture_output=True, check=True
    )
    assert done.stdout.split() == [b"False", b"False", b"False", b"True", b"1"]


def test_leases_that_dead_runs_left_are_found(folder_store):
    for name, record in (
        ("beside-a", foreign(renewed=1.0)), ("waits-b", foreign(renewed=1.0, run_id="b")),
        ("beside-c", foreign(run_id="c")), ("waits-d", foreign(run_id="d")),
    ):  # fmt: skip
        folder_store.put_if_absent(f"leases/{name}.json", canonical_json(record))
    folder_store.put_if_absent(NAME, canonical_json(foreign(renewed=1.0)))
    found = [info.name for info in abandoned_leases(folder_store)]
    assert found == ["leases/beside-a.json", "leases/waits-b.json"]
    assert [record.run_id for record in lease.waiting_runs(folder_store)] == ["d"]
