"""Both stores keep the same promises: names, conditional writes, listings."""

import time

import pytest

from faceid_core.errors import ConfigurationError, Conflict, ObjectMissing, StoreError
from faceid_core.store import open_store

NAMES = [
    "a",
    "a.json",
    "a-b/c",
    "a/b",
    "a/c/run_date=2026-11-23/part 1.parquet",
    "a0",
    "käse/€",
    "z/_delta_log/0.json",
]


def test_what_is_put_is_got(any_store):
    data = bytes(range(256)) * 5000
    assert any_store.put_if_absent("x/y", data)
    assert any_store.get("x/y") == data
    assert any_store.get_with_etag("x/y")[1] == any_store.head("x/y").etag
    info = any_store.head("x/y")
    assert (info.name, info.size) == ("x/y", len(data)) and abs(info.modified - time.time()) < 60


def test_an_empty_object_is_an_object(any_store):
    assert any_store.put_if_absent("empty", b"") and any_store.get("empty") == b""
    assert not any_store.put_if_absent("empty", b"x")


def test_the_first_put_stays(any_store):
    assert any_store.put_if_absent("x", b"first")
    assert not any_store.put_if_absent("x", b"second")
    assert any_store.get("x") == b"first"


def test_replace_needs_the_etag_that_was_read(any_store):
    first = any_store.replace_if_match("x", b"1", None)
    second = any_store.replace_if_match("x", b"2", first)
    assert first != second and any_store.get_with_etag("x") == (b"2", second)
    for stale in (first, None):
        with pytest.raises(Conflict, match="read it and decide again"):
            any_store.replace_if_match("x", b"3", stale)
    any_store.delete("x")
    with pytest.raises(Conflict):
        any_store.replace_if_match("x", b"3", second)
    assert any_store.head("x") is None


def test_what_is_absent(any_store):
    assert any_store.head("no/such") is None
    for read in (any_store.get, any_store.get_with_etag):
        with pytest.raises(ObjectMissing, match="no/such"):
            read("no/such")
    any_store.delete("no/such")
    assert list(any_store.list("")) == [] and list(any_store.list("no/such/")) == []


def test_a_listing_is_sorted_and_takes_any_prefix(any_store):
    names = [name for name in NAMES if name != "a"]  # an object that is also a folder: S3 only
    for name in reversed(names):
        any_store.put_if_absent(name, name.encode())
    assert [info.name for info in any_store.list("")] == sorted(names)
    for prefix in ("a", "a/", "a/c", "a-", "z/_", "kä", "b", "a/c/run_date=2026-11-23/"):
        expected = sorted(name for name in names if name.startswith(prefix))
        found = list(any_store.list(prefix))
        assert [info.name for info in found] == expected
        assert [info.size for info in found] == [len(name.encode()) for name in expected]


def test_deleting_one_leaves_the_others(any_store):
    for name in ("p/a", "p/b", "q/r/s"):
        any_store.put_if_absent(name, b"x")
    any_store.delete("p/a")
    any_store.delete("q/r/s")
    assert [info.name for info in any_store.list("")] == ["p/b"]
    assert any_store.put_if_absent("q/r/s", b"again")


LONG = ["a" * 256, "a/" * 500 + "a"]
ODD = [
    "",
    "/etc/passwd",
    "..",
    "../x",
    "a/../b",
    "a/./b",
    "a//b",
    "a/",
    "a\\b",
    "a\nb",
    "a\x00b",
    "\x85",
    "\ud800",
    ".tmp/x",
]


@pytest.mark.parametrize("name", ODD + LONG)
def test_names_that_no_store_takes(any_store, name):
    for use in (any_store.get, any_store.head, any_store.delete, lambda n: any_store.put_if_absent(n, b"x")):
        with pytest.raises(StoreError, match="cannot name an object"):
            use(name)
    with pytest.raises(StoreError):
        any_store.replace_if_match(name, b"x", None)


@pytest.mark.parametrize("prefix", ["../", "/", "a/../", "a\n"])
def test_prefixes_that_climb_out_are_refused(any_store, prefix):
    with pytest.raises(StoreError, match="cannot begin"):
        list(any_store.list(prefix))


@pytest.mark.parametrize(
    "url", ["", "http://host/x", "file://host/x", "s3://", "ftp:x://", "s3://b/x?version=1"]
)
def test_addresses_that_are_no_store(url):
    with pytest.raises(ConfigurationError):
        open_store(url)
