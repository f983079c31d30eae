"""A folder store follows no symbolic link below its root: no operation does, at any level of any name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from faceid_core.errors import LinkInStore, StoreError
from faceid_core.store import (
    FolderStore,
    IdentitySecret,
    StageCache,
    StageCall,
    layout,
    open_store,
    sha256_hex,
)
from faceid_core.store.cache import Output
from faceid_core.store.tombstone import Receipt, moment
from faceid_core.tables import Tables
from faceid_core.upkeep.erase import erase, finish_erasures
from faceid_core.upkeep.gc import collect
from faceid_core.upkeep.verify import LINK, verify
from tests.conftest import TEST_SECRET
from tests.helpers.fault_counts import FaultRecord
from tests.helpers.table_rows import run

SECRET = IdentitySecret(bytes.fromhex(TEST_SECRET))
KEY = SECRET.identity_key("ann")
BLOB = layout.blob(layout.identity_scope(KEY), sha256_hex(b"face"))
NAMES = (
    layout.STORE, layout.CATALOG, layout.tombstone(KEY), "leases/run.json", "runs/r1/status.json", BLOB,
    layout.stage_manifest(layout.identity_scope(KEY), "detect", sha256_hex(b"key")),
    layout.blob(layout.COMMON, sha256_hex(b"floor")), "tables/images/v2/_delta_log/00000000000000000000.json",
)  # fmt: skip
# What stands in a link's place: what was there, moved out of the store; nothing; itself; another name in the store.
KINDS = ("outside", "nothing", "loop", "inside")
OPERATIONS = 8
LEVELS = sorted(
    {"/".join(name.split("/")[: depth + 1]) for name in NAMES for depth in range(name.count("/") + 1)}
)


@pytest.fixture
def linked(tmp_path):
    """A function that makes a store with an object of every name, and a link of some kind in the place of one level."""

    def make(level: str, kind: str) -> tuple[FolderStore, Path]:
        root, outside = tmp_path / "store", tmp_path / "outside"
        for folder in (root, outside):
            shutil.rmtree(folder, ignore_errors=True)
        store = FolderStore(str(root))
        for name in NAMES:
            store.put_if_absent(name, b"data")
        replace_by_link(root / level, outside, kind)
        return store, outside

    return make


def replace_by_link(place: Path, outside: Path, kind: str) -> None:
    """Put a link where a file or folder was; `outside` is where an outside one leads."""
    outside.mkdir()
    os.rename(place, outside / "real" if kind in ("outside", "nothing") else place.with_name("moved"))
    if kind == "nothing":
        (outside / "real").rename(outside / "elsewhere")
    target = {
        "outside": outside / "real",
        "nothing": outside / "real",
        "loop": place,
        "inside": place.with_name("moved"),
    }
    os.symlink(target[kind], place)


def objects(root: Path) -> dict:
    """A store's contents without its own folder."""
    return {name: data for name, data in contents(root).items() if not name.startswith(".tmp/")}


def contents(folder: Path) -> dict:
    """Every file and link below a folder, none followed, with what it holds."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def require_not_followed(store: FolderStore, outside: Path, level: str) -> int:
    """No operation on what lies behind a link does anything; how many were tried."""
    behind = [name for name in NAMES if name == level or name.startswith(level + "/")]
    before = objects(store.root), contents(outside)
    for name in behind:
        uses = (
            (store.get, name), (store.get_with_etag, name), (store.head, name), (store.delete, name),
            (store.put_if_absent, name, b"new"), (store.replace_if_match, name, b"new", None),
            (store.replace_if_match, name, b"new", sha256_hex(b"data")), (lambda prefix: list(store.list(prefix)), name),
        )  # fmt: skip
        for use, *arguments in uses:
            with pytest.raises(LinkInStore, match=rf"{level} is a symbolic link.*try again") as told:
                use(*arguments)
            assert told.value.links == (level,)
    assert store.links() == [level] and (objects(store.root), contents(outside)) == before
    # A link in the place of another name hinders no operation.
    other = "runs/r2/request.json" if not level.startswith("runs") else "common/blobs/x"
    if not other.startswith(level):
        assert store.put_if_absent(other, b"x") and store.get(other) == b"x"
    # Everything beside the link is removed, then the link is told.
    with pytest.raises(LinkInStore):
        store.purge("")
    assert set(objects(store.root)) == {level} and contents(outside) == before[1]
    return len(behind) * OPERATIONS + 2


@pytest.mark.parametrize("depth", range(BLOB.count("/") + 1))
def test_no_operation_follows_a_link_to_the_outside(linked, depth):
    level = "/".join(BLOB.split("/")[: depth + 1])
    require_not_followed(*linked(level, "outside"), level)


@pytest.mark.exhaustive
def test_no_operation_follows_any_link_at_any_level_of_any_name(linked):
    record = FaultRecord("links-and-operations")
    for point in record.left([f"{kind} {level}" for kind in KINDS for level in LEVELS]):
        kind, _, level = point.partition(" ")
        tried = require_not_followed(*linked(level, kind), level)
        record.add(point, faults=1, runs=tried, compared=len(NAMES))


@pytest.mark.parametrize("level", [".tmp", ".tmp/locks", ".tmp/locks/{lock}"])
@pytest.mark.parametrize("kind", ["outside", "nothing", "loop"])
def test_the_stores_own_folder_is_no_way_out_either(linked, level, kind):
    store, _ = linked(BLOB, "inside")
    os.remove(store.root / BLOB)
    os.rename((store.root / BLOB).with_name("moved"), store.root / BLOB)
    store.replace_if_match(BLOB, b"data", sha256_hex(b"data"))  # makes the lock
    level = level.format(lock=sha256_hex(BLOB.encode())[:2])
    shutil.rmtree(store.root.parent / "outside")
    replace_by_link(store.root / level, outside := store.root.parent / "outside", kind)
    before = contents(outside)
    for use in (
        lambda: store.delete(BLOB),
        lambda: store.replace_if_match(BLOB, b"new", sha256_hex(b"data")),
    ):
        with pytest.raises(LinkInStore, match=level):
            use()
    if level.count("/") < 2:
        with pytest.raises(LinkInStore, match=level):
            store.sweep_unfinished(0.0, delete=True)
    assert store.get(BLOB) == b"data" and contents(outside) == before and level in store.links()


def test_an_unfinished_write_that_is_a_link_is_not_swept(folder_store, tmp_path):
    folder_store.put_if_absent("x", b"1")
    (tmp_path / "other").write_bytes(b"another's")
    os.symlink(tmp_path / "other", folder_store.root / ".tmp" / "4711-half")
    for delete in (False, True):
        with pytest.raises(LinkInStore, match="4711-half"):
            folder_store.sweep_unfinished(-1.0, delete=delete)
    assert (tmp_path / "other").read_bytes() == b"another's"


def test_the_root_itself_may_be_reached_through_links(tmp_path):
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    os.symlink(tmp_path / "disk", tmp_path / "mount")
    os.symlink(tmp_path / "mount" / "deep", tmp_path / "store")
    store = open_store(str(tmp_path / "store"))
    assert store.put_if_absent("a/b", b"1") and [info.name for info in store.list("")] == ["a/b"]
    assert (tmp_path / "disk" / "deep" / "a" / "b").is_file() and store.links() == []
    # Also one that was put there after the store was opened.
    os.rename(tmp_path / "disk", tmp_path / "new-disk")
    os.symlink(tmp_path / "new-disk", tmp_path / "disk")
    assert store.get("a/b") == b"1" and not store.put_if_absent("a/b", b"2")


def test_a_link_put_beside_a_writer_is_never_written_through(folder_store, tmp_path, monkeypatch):
    """The look for links and the write are one step: there is no moment between them."""
    folder_store.put_if_absent("a/b/x", b"1")
    (tmp_path / "outside").mkdir()
    real = os.link

    def swap(*arguments, **options):
        os.rename(folder_store.root / "a" / "b", tmp_path / "moved")
        os.symlink(tmp_path / "outside", folder_store.root / "a" / "b")
        return real(*arguments, **options)

    monkeypatch.setattr(os, "link", swap)
    folder_store.put_if_absent("a/b/y", b"2")
    assert os.listdir(tmp_path / "outside") == [] and (tmp_path / "moved" / "y").read_bytes() == b"2"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A store with a person's result and the tables of a run, made once."""
    store = FolderStore(str(tmp_path_factory.mktemp("original") / "store"))
    layout.initialize(store, SECRET)
    cache = StageCache(store, layout.identity_scope(KEY))
    cache.commit(StageCall("detect", 1), {"crop": Output(b"a face", "image/png")}, {})
    Tables(store).publish("r1", run("r1", 1))
    return store


@pytest.fixture
def filled(original, folder_store):
    """A copy of it."""
    shutil.copytree(original.root, folder_store.root)
    return folder_store


@pytest.mark.parametrize("below", ["", "/blobs"])
def test_an_erasure_never_ends_while_something_lies_behind_a_link(filled, tmp_path, below):
    link = filled.root / f"identities/{KEY}{below}"
    replace_by_link(link, tmp_path / "outside", "outside")
    for _ in range(2):
        with pytest.raises(
            StoreError, match=f"identities/{KEY}{below} is a symbolic link.*erase what is behind"
        ):
            erase(filled, SECRET, "ann", wait=False)
        assert b'"begun"' in filled.get(layout.tombstone(KEY))
    assert contents(tmp_path / "outside")
    # What the message says is enough.
    os.remove(link)
    os.rename(tmp_path / "outside" / "real", link)
    erase(filled, SECRET, "ann", longest_lease=0.0)
    assert b'"complete"' in filled.get(layout.tombstone(KEY)) and not (filled.root / "identities").exists()


def test_a_link_keeps_neither_its_persons_rows_nor_another_erasure(filled, tmp_path):
    other = SECRET.identity_key("bob")
    for key in (KEY, other):
        scope = layout.identity_scope(key)
        StageCache(filled, scope).commit(StageCall("parse", 1), {"mask": Output(b"a mask", "image/png")}, {})
        filled.put_if_absent(layout.tombstone(key), Receipt(key, moment()).to_bytes())
    rows = run("r2", 2)
    rows["identity_outcomes"] = with_key(rows["identity_outcomes"], KEY)
    Tables(filled).publish("r2", rows)
    replace_by_link(filled.root / f"identities/{KEY}/blobs", tmp_path / "outside", "outside")
    told: list[str] = []
    assert finish_erasures(filled, report=told.append).unfinished == {KEY}, "each call says so until it is mended"
    assert any(KEY in text and "is a symbolic link" in text for text in told)
    assert not (filled.root / f"identities/{other}").exists()
    assert KEY not in Tables(filled).read("identity_outcomes")["identity_key"].to_pylist()


def with_key(rows, key):
    """The rows of outcomes, the first of them under this identity key."""
    keys = [key, *rows["identity_key"].to_pylist()[1:]]
    index = rows.schema.get_field_index("identity_key")
    return rows.set_column(index, rows.schema.field(index), pa.array(keys, rows.schema.field(index).type))


@pytest.mark.parametrize(
    "level",
    ["tables", "tables/images/v2/_delta_log", "file"],
)
def test_the_tables_library_meets_no_link_either(filled, tmp_path, level):
    table = filled.root / "tables/images/v2"
    odd = {"file": next(table.glob("*.parquet"))}
    link = odd.get(level, filled.root / level)
    replace_by_link(link, tmp_path / "outside", "outside")
    before = contents(tmp_path / "outside")
    tables = Tables(filled)
    uses = (
        lambda: tables.read("images"), lambda: tables.publish("r2", run("r2", 2)),
        lambda: erase(filled, SECRET, "ann", wait=False), lambda: collect(filled, delete=True),
    )  # fmt: skip
    for use in uses:
        with pytest.raises(StoreError, match=f"{link} is a symbolic link"):
            use()
    assert contents(tmp_path / "outside") == before
    assert [finding.scope for finding in verify(filled).findings if finding.kind == LINK] == [
        link.relative_to(filled.root).as_posix()
    ]


@pytest.mark.parametrize("level", ["catalog", "catalog/current.json", "tombstones", "store.json"])
def test_verify_tells_a_link_in_the_place_of_a_record(filled, tmp_path, level):
    filled.put_if_absent(layout.tombstone(KEY), Receipt(KEY, moment()).to_bytes())
    replace_by_link(filled.root / level, tmp_path / "outside", "outside")
    assert [finding.scope for finding in verify(filled).findings if finding.kind == LINK] == [level]


def test_verify_tells_every_link_and_repairs_nothing_beside_one(filled, tmp_path):
    replace_by_link(filled.root / f"identities/{KEY}/blobs", tmp_path / "outside", "outside")
    links = {f"identities/{KEY}/blobs", "runs", "odd", ".tmp/odd"}
    for name in links - {f"identities/{KEY}/blobs"}:
        os.symlink(tmp_path, filled.root / name)
    found = verify(filled, repair=True)
    assert {finding.scope for finding in found.findings if finding.kind == LINK} == links
    assert not found.sound and found.repaired == 0
    # With the real folder in its place the result is whole: it was not set aside.
    os.remove(filled.root / f"identities/{KEY}/blobs")
    os.rename(tmp_path / "outside" / "real", filled.root / f"identities/{KEY}/blobs")
    for name in links - {f"identities/{KEY}/blobs"}:
        os.remove(filled.root / name)
    assert verify(filled).sound


def test_verify_goes_on_where_all_people_lie_behind_a_link(filled, tmp_path):
    replace_by_link(filled.root / "identities", tmp_path / "outside", "outside")
    assert verify(filled).counts() == {LINK: 1}


def test_collection_leaves_a_person_with_a_link_alone_and_goes_on(filled, tmp_path):
    other = SECRET.identity_key("bob")
    for key in (KEY, other):
        filled.put_if_absent(layout.blob(layout.identity_scope(key), sha256_hex(b"orphan")), b"orphan")
        old = filled.root / layout.blob(layout.identity_scope(key), sha256_hex(b"orphan"))
        os.utime(old, (1, 1))
    os.symlink(tmp_path, filled.root / f"identities/{KEY}/stages/linked")
    found = collect(filled, delete=True)
    assert found.scopes_in_doubt == 1 and found.counts["orphaned blob"] == 1
    orphan = layout.blob(layout.identity_scope(KEY), sha256_hex(b"orphan"))
    assert filled.head(orphan) and not (filled.root / f"identities/{other}").exists()
