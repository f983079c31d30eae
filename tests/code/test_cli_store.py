"""Commands that read a store: none of them makes a store or a secret, and each says what it found."""

from __future__ import annotations

import json
import os
import sys

import pytest
from click.testing import CliRunner

from faceid_core.outcomes import EXIT_BUG, EXIT_COMPLETE, EXIT_CONFIGURATION
from faceid_core.run.records import run_ids
from faceid_core.store import IdentitySecret, initialize, open_store
from flows.cli import cli, main

OURS, OTHER = "5a" * 32, "77" * 32
READS = {
    "key": ["key", "ann"],
    "draw": ["draw", "--identity", "ann", "--prompt", "a photo of V*"],
    "tokens": ["tokens", "ann"],
    "query": ["query", "select count(*) as n from images"],
    "status": ["status"],
    "sheet": ["sheet"],
    "export": ["tables", "export", "exported"],
}
# Commands that turn an id into a key, and so need the secret that the store was made with.
WITH_SECRET = ("key", "draw", "tokens")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty present folder, and our secret in the environment."""
    monkeypatch.setenv("FACEID_IDENTITY_SECRET", OURS)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def store(tmp_path):
    """A store without a run."""
    made = open_store(str(tmp_path / "store"))
    initialize(made, IdentitySecret(bytes.fromhex(OURS)))
    return made


def faceid(monkeypatch, capsys, *arguments):
    """Exit status and standard error of the command as a shell sees them."""
    monkeypatch.setattr(sys, "argv", ["faceid", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize("command", READS)
def test_a_store_that_does_not_exist_is_refused_and_not_made(command, tmp_path, monkeypatch, capsys):
    wrong = tmp_path / "a b" / "stroe"
    code, told = faceid(monkeypatch, capsys, *READS[command], "--store", wrong)
    assert code == EXIT_CONFIGURATION
    assert f"there is no store at {wrong}" in told and "faceid run" in told
    assert not wrong.parent.exists() and not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("command", WITH_SECRET)
def test_a_machine_without_the_secret_is_told_so_and_gets_none(command, store, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("FACEID_IDENTITY_SECRET")
    monkeypatch.setenv("FACEID_IDENTITY_SECRET_FILE", str(tmp_path / "secret"))
    code, told = faceid(monkeypatch, capsys, *READS[command], "--store", tmp_path / "store")
    assert code == EXIT_CONFIGURATION
    assert str(tmp_path / "secret") in told and "FACEID_IDENTITY_SECRET" in told and "bring" in told
    assert not (tmp_path / "secret").exists()


@pytest.mark.parametrize("command", WITH_SECRET)
def test_another_secret_than_the_stores_is_refused(command, store, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FACEID_IDENTITY_SECRET", OTHER)
    code, told = faceid(monkeypatch, capsys, *READS[command], "--store", tmp_path / "store")
    assert code == EXIT_CONFIGURATION and "another identity secret" in told


def test_a_run_without_the_stores_secret_does_not_make_one(store, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("FACEID_IDENTITY_SECRET")
    monkeypatch.setenv("FACEID_IDENTITY_SECRET_FILE", str(tmp_path / "secret"))
    code, told = faceid(monkeypatch, capsys, "run", "--executor", "inline", "--store", tmp_path / "store")
    assert code == EXIT_CONFIGURATION and "there is no identity secret here" in told
    assert not (tmp_path / "secret").exists()


def test_the_key_is_that_of_the_stores_secret(store, tmp_path):
    told = CliRunner().invoke(cli, ["key", "ann", "--store", str(tmp_path / "store")])
    assert told.output.strip() == IdentitySecret(bytes.fromhex(OURS)).identity_key("ann")


def test_a_store_without_runs_has_empty_tables(store, tmp_path):
    where = ["--store", str(tmp_path / "store")]
    told = CliRunner().invoke(cli, [*READS["query"], *where, "--format", "json"])
    assert told.exit_code == EXIT_COMPLETE and json.loads(told.output) == [{"n": 0}]


def test_a_long_value_can_be_copied_from_the_table(store, tmp_path):
    long = "0123456789abcdef" * 8
    told = CliRunner().invoke(cli, ["query", f"select '{long}' as k", "--store", str(tmp_path / "store")])
    assert long in told.output


@pytest.mark.parametrize("command", ["status", "sheet"])
def test_a_run_id_that_cannot_be_one_is_refused(command, store, tmp_path, monkeypatch, capsys):
    request = {"run_id": "20261124-nightly-1", "started_at": "2026-11-24T22:00:00+00:00"}
    store.put_if_absent("runs/20261124-nightly-1/request.json", json.dumps(request).encode())
    code, told = faceid(monkeypatch, capsys, command, "../x", "--store", tmp_path / "store")
    assert code == EXIT_CONFIGURATION and "'../x' is not allowed" in told
    code, told = faceid(monkeypatch, capsys, command, "none-such", "--store", tmp_path / "store")
    assert code == EXIT_CONFIGURATION and "no run 'none-such'; it holds 20261124-nightly-1" in told


def test_a_persons_message_is_told_as_it_is(store, tmp_path):
    run = "runs/20261124-nightly-1"
    request = {"run_id": "20261124-nightly-1", "started_at": "2026-11-24T22:00:00+00:00"}
    advice = "pip install 'faceid[dlib]' brings it [/x]"
    person = {
        "identity_key": "0" * 32, "outcome": "failed", "stage": "detect", "reason": "x", "seconds": 1.0,
        "message": advice,
    }  # fmt: skip
    status = {
        "state": "complete", "at": "now", "outcomes": {"failed": 1}, "people": [person],
        "common_failures": {"class-person": advice},
    }  # fmt: skip
    store.put_if_absent(f"{run}/request.json", json.dumps(request).encode())
    store.put_if_absent(f"{run}/status.json", json.dumps(status).encode())
    told = CliRunner().invoke(
        cli, ["status", "--store", str(tmp_path / "store")], catch_exceptions=False, env={"COLUMNS": "200"}
    )
    assert told.output.count(advice) == 2


def test_a_run_that_died_before_its_first_status_is_named(store, tmp_path):
    request = {"run_id": "20261124-nightly-1", "started_at": "2026-11-24T22:00:00+00:00"}
    store.put_if_absent("runs/20261124-nightly-1/request.json", json.dumps(request).encode())
    told = CliRunner().invoke(cli, ["status", "--store", str(tmp_path / "store")], catch_exceptions=False)
    assert told.exit_code == EXIT_COMPLETE
    assert "run 20261124-nightly-1 started at 2026-11-24T22:00:00+00:00 but recorded no status" in told.output


def test_a_bug_has_an_exit_status_of_its_own(store, monkeypatch, capsys):
    def breaks(*_, **__):
        raise RuntimeError("a fault that was not expected")

    monkeypatch.setattr("faceid_core.run.store_access.open_existing", breaks)
    code, told = faceid(monkeypatch, capsys, "gc", "--store", store.root)
    assert code == EXIT_BUG == 1 and "a fault that was not expected" in told and "this is a bug in faceid" in told


def test_the_latest_run_is_the_one_that_started_last_whatever_a_copy_did_to_its_files(store, tmp_path):
    began = {
        "20261128-nightly-00000001": "2026-11-28",
        "20261101-missed-00000002": "2026-11-30",
        "20261129-nightly-00000003": "2026-11-29",
    }
    for run_id, day in began.items():
        request = {"run_id": run_id, "started_at": f"{day}T22:00:00+00:00", "identities": []}
        store.put_if_absent(f"runs/{run_id}/request.json", json.dumps(request).encode())
    last, *_, first = sorted(began, key=began.__getitem__, reverse=True)
    os.utime(store.root / f"runs/{first}/request.json", (2e9, 2e9))
    assert run_ids(store) == sorted(began, key=began.__getitem__)
    told = CliRunner().invoke(cli, ["status", "--store", str(store.root)])
    assert last in told.output
