"""The folder store under races and failures: one winner, no lost update, nothing half-written."""

import json
import multiprocessing
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from faceid_core.errors import Conflict, StoreError
from faceid_core.store import FolderStore

PROCESSES, ROUNDS = 6, 25


def race_to_create(url, number, barrier, wins):
    store = FolderStore(url)
    for turn in range(ROUNDS):
        barrier.wait(60)
        if store.put_if_absent(f"races/{turn}/x", json.dumps([number] * 20_000).encode()):
            wins.put((turn, number))


def count_up(url, barrier):
    store = FolderStore(url)
    barrier.wait(60)
    for _ in range(ROUNDS):
        while True:
            data, etag = store.get_with_etag("count")
            try:
                store.replace_if_match("count", str(int(data) + 1).encode(), etag)
                break
            except Conflict:
                continue


def run_processes(target, *arguments):
    context = multiprocessing.get_context("spawn")
    barrier, wins = context.Barrier(PROCESSES), context.Queue()
    started = []
    for number in range(PROCESSES):
        extra = (number, barrier, wins) if target is race_to_create else (barrier,)
        started.append(context.Process(target=target, args=(*arguments, *extra)))
        started[-1].start()
    found = [wins.get(timeout=120) for _ in range(ROUNDS)] if target is race_to_create else []
    for process in started:
        process.join(120)
        assert process.exitcode == 0
    assert wins.empty()
    return found


def test_six_processes_race_and_one_wins_each_round(folder_store):
    wins = run_processes(race_to_create, folder_store.url)
    assert sorted(turn for turn, _ in wins) == list(range(ROUNDS))
    for turn, winner in wins:
        assert json.loads(folder_store.get(f"races/{turn}/x")) == [winner] * 20_000
    assert not [name for name in os.listdir(folder_store.root / ".tmp") if name != "locks"]


def test_six_processes_count_and_none_is_lost(folder_store):
    folder_store.put_if_absent("count", b"0")
    run_processes(count_up, folder_store.url)
    assert int(folder_store.get("count")) == PROCESSES * ROUNDS


def test_writers_and_deleters_of_one_folder_do_not_trip_over_each_other(folder_store):
    def work(number):
        for _ in range(60):
            assert folder_store.put_if_absent(f"p/q/{number}", b"x")
            folder_store.delete(f"p/q/{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not (folder_store.root / "p").exists()


def test_a_reader_never_sees_half_of_a_replacement(folder_store):
    etag = folder_store.replace_if_match("x", b"a" * 1_000_000, None)
    with ThreadPoolExecutor(1) as pool:
        reads = pool.submit(lambda: [set(folder_store.get("x")) for _ in range(100)])
        for letter in b"bcdefghij":
            etag = folder_store.replace_if_match("x", bytes([letter]) * 1_000_000, etag)
    assert all(len(letters) == 1 for letters in reads.result())


@pytest.mark.parametrize("broken", ["link", "fsync"])
def test_a_write_that_fails_leaves_neither_object_nor_temporary_file(folder_store, monkeypatch, broken):
    folder_store.put_if_absent("before", b"x")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(StoreError, match=r"cannot write p/new.*No space left.*check space"):
        folder_store.put_if_absent("p/new", b"data")
    monkeypatch.undo()
    assert folder_store.head("p/new") is None
    assert [info.name for info in folder_store.list("")] == ["before"]
    assert not [name for name in os.listdir(folder_store.root / ".tmp") if name != "locks"]
    assert folder_store.put_if_absent("p/new", b"data")


def test_a_replacement_that_fails_leaves_the_old_object(folder_store, monkeypatch):
    etag = folder_store.replace_if_match("x", b"old", None)

    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StoreError, match="cannot replace x"):
        folder_store.replace_if_match("x", b"new", etag)
    assert folder_store.get("x") == b"old"


def test_what_a_killed_writer_left_is_not_listed(folder_store):
    folder_store.put_if_absent("x", b"1")
    (folder_store.root / ".tmp" / "4711-abandoned").write_bytes(b"half")
    assert [info.name for info in folder_store.list("")] == ["x"]
    assert list(folder_store.list(".tmp")) == []


def test_one_name_cannot_be_both_object_and_folder(folder_store):
    folder_store.put_if_absent("a/b", b"x")
    for name in ("a", "a/b/c"):
        with pytest.raises(StoreError, match="cannot write"):
            folder_store.put_if_absent(name, b"x")
        assert folder_store.head(name) is None
    folder_store.delete("a")
    assert folder_store.get("a/b") == b"x"


def test_a_store_is_private_from_the_start_and_knows_its_address(tmp_path):
    store = FolderStore(f"file://{tmp_path}/with%20space/store")
    store.put_if_absent("x", b"1")
    assert stat.S_IMODE(os.stat(tmp_path / "with space/store").st_mode) == 0o700
    assert FolderStore(store.url).get("x") == b"1" == FolderStore(str(tmp_path / "with space/store")).get("x")


def test_a_relative_address_does_not_follow_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = FolderStore("store")
    monkeypatch.chdir(Path("/"))
    store.put_if_absent("x", b"1")
    assert (tmp_path / "store" / "x").read_bytes() == b"1"
