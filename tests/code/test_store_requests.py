"""A store that is opened counts what is asked of it, by operation and outcome."""

from __future__ import annotations

import pytest

from faceid_core.errors import Conflict, ObjectMissing
from faceid_core.store import open_store
from faceid_core.store.objects import ObjectStore
from faceid_core.store.requests import OPERATIONS, REQUESTS, CountedStore
from tests.helpers.faulty import FaultCount, Faults, FaultyStore


def asked(before: dict) -> dict:
    """What was counted since a snapshot."""
    return {key: n - before.get(key, 0) for key, n in REQUESTS.snapshot().items() if n > before.get(key, 0)}


def test_every_request_counts_once_with_its_outcome(tmp_path):
    store = open_store(str(tmp_path / "store"))
    before = REQUESTS.snapshot()
    assert store.put_if_absent("a/one", b"1") and not store.put_if_absent("a/one", b"2")
    assert store.get("a/one") == b"1"
    _, etag = store.get_with_etag("a/one")
    with pytest.raises(ObjectMissing):
        store.get("a/two")
    assert store.head("a/two") is None
    store.replace_if_match("a/one", b"3", etag)
    with pytest.raises(Conflict):
        store.replace_if_match("a/one", b"4", etag)
    assert [each.name for each in store.list("a/")] == ["a/one"]
    next(store.list("a/"))  # left before its end
    store.delete("a/one")
    assert asked(before) == {
        ("put_if_absent", "ok"): 1,
        ("put_if_absent", "conflict"): 1,
        ("get", "ok"): 1,
        ("get_with_etag", "ok"): 1,
        ("get", "absent"): 1,
        ("head", "absent"): 1,
        ("replace_if_match", "ok"): 1,
        ("replace_if_match", "conflict"): 1,
        ("list", "ok"): 2,
        ("delete", "ok"): 1,
    }


def test_a_store_that_fails_counts_errors(tmp_path):
    inner = open_store(str(tmp_path / "store"))
    broken = CountedStore(FaultyStore(inner, FaultCount(Faults(rate=1.0))))
    before = REQUESTS.snapshot()
    for call in (
        lambda: broken.get("a"),
        lambda: list(broken.list("")),
        lambda: broken.put_if_absent("a", b""),
    ):
        with pytest.raises(Exception, match="injected"):
            call()
    assert asked(before) == {("get", "error"): 1, ("list", "error"): 1, ("put_if_absent", "error"): 1}


def test_what_a_run_asks_is_counted_and_the_rest_is_the_stores_own(tmp_path):
    operations = {name for name in vars(ObjectStore) if not name.startswith("_")}
    upkeep = {"links", "purge", "purge_old_versions", "sweep_unfinished"}
    assert set(OPERATIONS) == operations - upkeep
    assert set(OPERATIONS) <= set(vars(CountedStore))
    store = open_store(str(tmp_path / "store"))
    assert store.root == tmp_path / "store" and not hasattr(store, "address")
