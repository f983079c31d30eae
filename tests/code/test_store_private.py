"""Everything that a store makes is its owner's alone, however its folder came to be and whatever the umask."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from faceid_core.config import NightlyConfig
from faceid_core.doctor.folder import folder as examine
from faceid_core.doctor.storage import storage
from faceid_core.errors import ConfigurationError
from faceid_core.private import config_folder, replaced, write_private
from faceid_core.store import FolderStore, IdentitySecret, StageCache, StageCall, layout
from faceid_core.store.cache import Output
from faceid_core.store.secret import secret_file
from faceid_core.tables import Tables
from faceid_core.weights.deepface_files import home_folder
from faceid_core.weights.lock import cache_folder
from tests.conftest import TEST_SECRET
from tests.helpers.table_rows import run

SECRET = IdentitySecret(bytes.fromhex(TEST_SECRET))
KEY = SECRET.identity_key("ann")


@pytest.fixture(params=[0o000, 0o022], ids=["umask 000", "umask 022"])
def umask(request):
    """The umask of a careless and of a usual environment."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def fill(root: Path) -> FolderStore:
    store = FolderStore(str(root))
    layout.initialize(store, SECRET)
    cache = StageCache(store, layout.identity_scope(KEY))
    cache.commit(StageCall("detect", 1), {"crop": Output(b"a face", "image/png")}, {})
    cache.commit(StageCall("detect", 1), {"crop": Output(b"a face", "image/png")}, {}, replace=True)
    Tables(store).publish("r1", run("r1", 1))
    return store


def within_reach(root: Path) -> list[str]:
    """What another user can read, change or list below a folder."""
    found = []
    for path, folders, files in os.walk(root):
        modes = {name: os.lstat(os.path.join(path, name)).st_mode for name in (*folders, *files)}
        found += [os.path.join(path, name) for name, mode in modes.items() if mode & 0o066]
        folders[:] = [name for name in folders if modes[name] & 0o011]
    return found


def test_a_store_in_a_folder_that_was_there_before_is_closed(tmp_path, umask):
    root = tmp_path / "store"
    root.mkdir(mode=0o755)
    store = fill(root)
    assert within_reach(root) == []
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        assert name.split("/")[0] in layout.TOP_NAMES
        if not name.startswith("tables/"):  # what delta-rs writes there lies in a closed folder
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), name
    (told,) = examine(store)
    assert told.state == "ok"


def test_people_in_a_store_that_was_open_are_closed_with_the_next_write(tmp_path):
    store = fill(tmp_path / "store")
    make_open(store.root)
    other = StageCache(FolderStore(store.url), layout.identity_scope(SECRET.identity_key("bob")))
    other.put_blob(b"another face")
    assert not [path for path in within_reach(store.root) if "/identities" in path]
    assert [path for path in within_reach(store.root) if "/tables" in path]  # doctor tells


def make_open(root: Path) -> None:
    """Let a store be as earlier versions left it."""
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.fixture
def reached(monkeypatch):
    """The folders above pytest's own are closed; here they are not."""
    monkeypatch.setattr("faceid_core.doctor.folder._closed_above", lambda root: False)


def test_the_doctor_says_what_is_open_and_the_command_that_closes_it(tmp_path, reached):
    store = fill(tmp_path / "a store")
    make_open(store.root)
    (told,) = examine(store)
    assert told.state == "warn" and "identities (" in told.found and "tables (" in told.found
    subprocess.run(shlex.split(told.advice.removeprefix("run: ")), check=True)
    assert within_reach(store.root) == []
    (told,) = examine(store)
    assert told.state == "ok" and "nothing in it is open" in told.found


def test_a_store_that_others_can_change_is_told(tmp_path, reached):
    store = fill(tmp_path / "store")
    store.root.chmod(0o777)
    (told,) = examine(store)
    assert told.state == "warn" and told.advice == f"run: chmod -R go= {store.root}"
    store.root.chmod(0o700)
    (told,) = examine(store)
    assert told.state == "ok" and "only its owner" in told.found


def test_a_store_below_a_closed_folder_is_closed(tmp_path):
    store = fill(tmp_path / "closed" / "store")
    make_open(store.root)
    store.root.parent.chmod(0o700)
    (told,) = examine(store)
    assert told.state == "ok" and "only its owner" in told.found


def test_the_doctor_tells_links(tmp_path):
    store = fill(tmp_path / "store")
    os.symlink(tmp_path, store.root / "identities" / "linked")
    told = {each.check: each for each in storage(NightlyConfig(store=str(store.root)))}
    assert told["store: links"].state == "fail" and "identities/linked" in told["store: links"].found
    assert told["store: private"].state == "ok"


def test_files_that_are_handed_out_are_their_owners_alone(tmp_path, umask):
    write_private(tmp_path / "tokens", b"1")
    assert stat.S_IMODE((tmp_path / "tokens").stat().st_mode) == 0o600
    (tmp_path / "tokens").chmod(0o640)
    write_private(tmp_path / "tokens", b"2")
    assert stat.S_IMODE((tmp_path / "tokens").stat().st_mode) == 0o640
    for file in Tables(fill(tmp_path / "store")).export(tmp_path / "export"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "export").stat().st_mode) == 0o700


def test_a_write_that_breaks_off_leaves_what_was_there(tmp_path):
    file, link = tmp_path / "tokens", tmp_path / "link"
    write_private(file, b"good")
    link.symlink_to(file)
    for place in (file, link):
        with pytest.raises(OSError, match="No space left"), replaced(place) as written:
            written.write(b"half")
            raise OSError(28, "No space left on device")
        assert file.read_bytes() == b"good"
    write_private(link, b"better")
    assert file.read_bytes() == b"better" and link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "tokens"], "nothing half-written is left"
    with pytest.raises(NotADirectoryError, match="tokens/below"):
        write_private(file / "below", b"1")
    write_private("/dev/null", b"1")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_exports_to_one_folder_at_once_are_all_whole(tmp_path):
    tables = Tables(fill(tmp_path / "store"))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: tables.export(tmp_path / "export"), range(8)))
    rows = pq.read_table(tmp_path / "export" / "images.parquet").num_rows
    assert rows == tables.read("images").num_rows > 0
    assert all(path.suffix == ".parquet" for path in (tmp_path / "export").iterdir())


def test_a_user_without_a_home_is_told_which_variable_to_set(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "DEEPFACE_HOME"):
        monkeypatch.delenv(name, raising=False)
    asked = {config_folder: "XDG_CONFIG_HOME", cache_folder: "XDG_CACHE_HOME", home_folder: "DEEPFACE_HOME"}
    for folder_of, variable in asked.items():
        with pytest.raises(ConfigurationError, match=f"set HOME or {variable}"):
            folder_of()
    monkeypatch.setenv("FACEID_IDENTITY_SECRET_FILE", "~no-such-user/secret")
    with pytest.raises(ConfigurationError, match="FACEID_IDENTITY_SECRET_FILE"):
        secret_file()
