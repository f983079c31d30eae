"""A lock that somebody holds is waited for, and not for ever."""

from __future__ import annotations

import fcntl
import threading
import time

import pytest

from faceid_core.errors import StoreError
from faceid_core.store import file_lock, folder, open_store
from faceid_core.store.file_lock import lock_file


@pytest.fixture
def held(tmp_path):
    """A file that is locked, as by a process that is suspended."""
    with open(tmp_path / "lock", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def test_a_lock_is_taken_as_soon_as_it_is_free(held):
    threading.Timer(0.2, lambda: fcntl.flock(held, fcntl.LOCK_UN)).start()
    began = time.monotonic()
    with open(held.name, "ab") as file:
        lock_file(file, "a thing", seconds=30)
        assert time.monotonic() - began >= 0.2
        with open(held.name, "ab") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_stays_is_given_up_and_said(held, monkeypatch, caplog):
    monkeypatch.setattr(file_lock, "_SAY_SECONDS", 0.1)
    with open(held.name, "ab") as file, pytest.raises(StoreError, match=r"a thing has been locked.*fuser"):
        lock_file(file, "a thing", seconds=0.3)
    assert caplog.text.count("waiting for another process") == 1


def test_a_folder_store_does_not_wait_for_ever_for_a_suspended_process(tmp_path, monkeypatch):
    store = open_store(str(tmp_path / "store"))
    etag = store.replace_if_match("leases/run.json", b"one", None)
    etag = store.replace_if_match("leases/run.json", b"two", etag)
    monkeypatch.setattr(folder, "_LOCK_SECONDS", 0.2)
    (lock,) = tmp_path.rglob("locks/*")
    with open(lock, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=r"leases/run.json in .* has been locked"):
            store.replace_if_match("leases/run.json", b"three", etag)
