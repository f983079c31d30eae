"""A folder's path either works for every library that gets it, or is refused before any work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from faceid_core.errors import ConfigurationError
from faceid_core.outcomes import EXIT_CONFIGURATION
from faceid_core.store import IdentitySecret, StageCache, StageCall, layout, open_store
from faceid_core.store.cache import Output
from faceid_core.store.folder import folder_of
from faceid_core.tables import Tables
from faceid_core.upkeep.erase import erase
from faceid_core.upkeep.verify import verify
from flows.cli import cli
from tests.conftest import TEST_SECRET
from tests.helpers.table_rows import run

SECRET = IdentitySecret(bytes.fromhex(TEST_SECRET))
KEY = SECRET.identity_key("ann")
TAKEN = [
    "a b", " a ", "100%", "%zz", "a%2", "a#b", "a?b", "käse", "e\u0301", "日本", "\U0001f600", "\u200b", "a:b", "C:",
    "a;b", "a&b", "a=b", "run_date=1", "a+b", "a'b", 'a"b', "a*b", "a{b}", "a<b>", "~", "a~b", "a`b", "a$b", "a,b", "(a)",
    "a@b", "a!b", "..a", "a..", "...", ".hidden", "-a", "$HOME", "${HOME}", "s3", "memory:",
]  # fmt: skip
# One path that holds them all, for the quick test.
ALL = ("a b 100% %zz #?käse e\u0301 日本\U0001f600:;&=+'\"*{}<>~`$,()@!..",)
REFUSED = {
    "a%41b": "%41", "%2F": "%2F", "a%20b": "%20", "100%25": "%25", "a%ffb": "%ff", "a\\b": r"\\", "a[b]": r"\[ \]",
    "a|b": r"\|", "a^b": r"\^", "a\nb": "line break", "a\rb": "line break", "a\tb": "control", "a\x7fb": "control",
    "a\x1bb": "control", "a\u2028b": "line break", "a\udcffb": "not UTF-8",
}  # fmt: skip


def require_working(root: Path, url: str) -> None:
    """Everything that a run and its upkeep ask of a place comes out below it, and nowhere else."""
    store = open_store(url)
    assert store.root == root and folder_of(store.url) == root and open_store(store.url).root == root
    layout.initialize(store, SECRET)
    cache = StageCache(store, layout.identity_scope(KEY))
    manifest = cache.commit(StageCall("detect", 1), {"crop": Output(b"a face", "image/png")}, {})
    assert cache.read(manifest, "crop") == b"a face"
    tables = Tables(store)
    tables.publish("r1", run("r1", 1))
    tables.publish("r2", run("r2", 2))
    assert tables.query("select count(*) as n from runs").to_pylist() == [{"n": 2}]
    assert tables.read("images").num_rows == len(run("r1", 1)["images"])
    assert erase(store, SECRET, "ann", longest_lease=0.0).state == "complete"
    tables.publish("r3", run("r3", 3))
    assert tables.query("select count(*) as n from runs").to_pylist() == [{"n": 3}] and verify(store).sound
    assert sorted(path.name for path in root.iterdir()) == sorted(
        [".tmp", "catalog", "store.json", "tables", "tombstones"]
    )


@pytest.mark.parametrize("spell", [str, lambda root: root.as_uri()], ids=["path", "url"])
def test_a_path_with_odd_characters_works_from_the_first_object_to_the_tables(tmp_path, spell):
    root = tmp_path / ALL[0] / "store"
    require_working(root, spell(root))
    assert os.listdir(tmp_path) == [ALL[0]]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", TAKEN)
def test_each_path_that_is_taken_works(tmp_path, name):
    require_working(tmp_path / name, f"{tmp_path}/{name}")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", REFUSED)
def test_a_path_that_the_tables_library_reads_otherwise_is_refused_at_once(tmp_path, name):
    for root in (tmp_path / name, tmp_path / name / "store"):
        for url in {str(root), root.as_uri()}:
            with pytest.raises(ConfigurationError, match=f"{REFUSED[name]}.*Rename the folder"):
                open_store(url)
    assert os.listdir(tmp_path) == []


def test_a_link_can_give_such_a_folder_no_other_name_and_an_ordinary_one_any(tmp_path):
    (tmp_path / "a%41b").mkdir()
    (tmp_path / "plain").symlink_to(tmp_path / "a%41b")
    with pytest.raises(ConfigurationError, match="a%41b"):
        open_store(str(tmp_path / "plain"))
    (tmp_path / "ordinary").mkdir()
    (tmp_path / "[odd]").symlink_to(tmp_path / "ordinary")
    assert open_store(str(tmp_path / "[odd]")).root == tmp_path / "ordinary"


@pytest.mark.parametrize(
    "url",
    [
        "file:///data/a#b", "file:///data/a?b=c", "file:///data/a#", "file:///data/a\nb", "file:/data", "file:data",
        "s3:/bucket/prefix", "S3:bucket", "S3://bucket/prefix", "https:/host/x", "~no-such-user-of-ours/x", "a\x00b",
        "file:///a%00b", "file:///a%0Ab",
    ],
)  # fmt: skip
def test_an_address_that_would_be_cut_or_taken_for_a_folder_is_refused(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError):
        open_store(url)


def test_a_folder_whose_name_looks_like_an_address_can_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_store("./s3:/bucket").root == tmp_path / "s3:" / "bucket"


def test_links_in_a_circle_are_no_store(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ConfigurationError, match="cannot be a store's folder"):
        open_store(str(tmp_path / "loop" / "store"))


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match="it is a file; give a folder"):
        open_store(str(tmp_path / "file"))


def test_a_path_that_is_too_long_is_refused(tmp_path):
    for path in (tmp_path / ("a" * 256), tmp_path.joinpath(*["a" * 200] * 18)):
        with pytest.raises(ConfigurationError, match="too long; choose a shorter path"):
            open_store(str(path))
    assert open_store(str(tmp_path / ("a" * 255))).put_if_absent("x", b"1")


def test_a_run_on_such_a_path_ends_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("run", "plan", "doctor"):
        told = CliRunner().invoke(cli, [command, "--store", "st%41re", "--executor", "inline"])
        said = told.output + str(told.exception)
        assert (
            told.exit_code == EXIT_CONFIGURATION or isinstance(told.exception, ConfigurationError)
        ) and "%41" in said
    assert os.listdir(tmp_path) == []
