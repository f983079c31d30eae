"""The identity secret and the store that is bound to it."""

import base64
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
from click.testing import CliRunner

from faceid_core.config import NightlyConfig
from faceid_core.doctor.storage import storage
from faceid_core.errors import ConfigurationError, SecretMismatch, StoreError
from faceid_core.run.store_access import open_or_create
from faceid_core.store import IdentitySecret, initialize, layout, open_store
from flows.cli import cli

STORE, SHARED = "file:///srv/a-store", "s3://bucket/prefix"


@pytest.fixture
def no_secret(monkeypatch, tmp_path):
    """An environment without a secret; where its file will be made."""
    monkeypatch.delenv("FACEID_IDENTITY_SECRET")
    monkeypatch.delenv("FACEID_IDENTITY_SECRET_FILE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "faceid" / "identity-secret"


def test_golden_identity_key():
    # A change here would give every person in every store another key.
    secret = IdentitySecret(bytes(range(32)))
    assert secret.identity_key("anna") == "1a6b9fad5b0058463390f7278bfc99dc"
    assert secret.fingerprint == "6fa6cffde4c62c7e5e07db424e42b133"


def test_keys_differ_by_identity_and_by_secret():
    first, second = IdentitySecret(b"a" * 32), IdentitySecret(b"b" * 32)
    keys = [
        secret.identity_key(name) for secret in (first, second) for name in ("anna", "Anna", "ännä", "anna ")
    ]
    assert len(set(keys)) == 8 and all(len(key) == 32 for key in keys)
    assert first.fingerprint != second.fingerprint and first.fingerprint not in keys


@pytest.mark.parametrize(
    "spell", [bytes.hex, lambda b: b.hex().upper() + "\n", lambda b: base64.b64encode(b).decode()]
)
def test_the_variable_takes_hex_and_base64(no_secret, monkeypatch, spell):
    monkeypatch.setenv("FACEID_IDENTITY_SECRET", spell(bytes(range(200, 232))))
    assert IdentitySecret.load(STORE).value == bytes(range(200, 232))
    assert not no_secret.exists()


@pytest.mark.parametrize(
    "text", ["hunter2", "ab" * 31, "ab" * 33, base64.b64encode(b"x" * 16).decode(), "é" * 64]
)
def test_anything_else_in_the_variable_is_refused_without_showing_it(no_secret, monkeypatch, text):
    monkeypatch.setenv("FACEID_IDENTITY_SECRET", text)
    with pytest.raises(ConfigurationError, match="openssl rand -hex 32") as caught:
        IdentitySecret.load(STORE)
    assert text not in str(caught.value)


def test_a_file_is_made_once_and_for_its_owner_only(no_secret):
    with ThreadPoolExecutor(8) as pool:
        values = {secret.value for secret in pool.map(lambda _: IdentitySecret.load(STORE), range(8))}
    assert len(values) == 1
    assert stat.S_IMODE(os.stat(no_secret).st_mode) == 0o600
    assert os.listdir(no_secret.parent) == ["identity-secret"]
    assert IdentitySecret.load(STORE).value in values


def test_a_store_that_others_share_is_given_no_secret_unasked(no_secret):
    for load in (lambda: IdentitySecret.load(SHARED), lambda: IdentitySecret.load(STORE, shared=True)):
        with pytest.raises(ConfigurationError, match="faceid secret init") as told:
            load()
        assert str(no_secret) in str(told.value) and "FACEID_IDENTITY_SECRET" in str(told.value)
    assert not no_secret.parent.exists()
    made = IdentitySecret.make()
    assert IdentitySecret.load(SHARED).value == IdentitySecret.load(STORE, shared=True).value == made.value


def test_init_makes_the_secret_once_and_says_where_it_went_and_how_to_keep_it(no_secret):
    told = CliRunner().invoke(cli, ["secret", "init"])
    assert told.exit_code == 0 and stat.S_IMODE(os.stat(no_secret).st_mode) == 0o600
    secret = IdentitySecret.load(SHARED)
    for word in (str(no_secret), secret.fingerprint, "secret manager", "FACEID_IDENTITY_SECRET"):
        assert word in told.output
    assert secret.value.hex() not in told.output


@pytest.mark.parametrize("where", ["file", "variable"])
def test_init_replaces_no_secret(no_secret, monkeypatch, where):
    if where == "file":
        before = IdentitySecret.make()
    else:
        monkeypatch.setenv("FACEID_IDENTITY_SECRET", "ab" * 32)
        before = IdentitySecret.load(STORE)
    told = CliRunner().invoke(cli, ["secret", "init"]).exception
    assert (
        isinstance(told, ConfigurationError)
        and before.fingerprint in str(told)
        and before.source in str(told)
    )
    assert IdentitySecret.load(STORE).value == before.value and no_secret.exists() == (where == "file")


def secret_finding(config):
    """What the doctor says of the secret: the second of its findings on a store, before it races writers there."""
    return list(islice(storage(config), 2))[1]


@pytest.mark.parametrize("execution", [{}, {"ray_address": "auto"}], ids=["s3", "cluster"])
def test_the_first_night_on_a_shared_store_needs_a_secret_and_says_which_it_took(
    no_secret, s3_server, tmp_path, execution
):
    address = str(tmp_path / "store") if execution else f"s3://{s3_server.new_bucket()}/p"
    config = NightlyConfig(store=address, execution=execution)
    told = secret_finding(config)
    assert told.state == "fail" and "faceid secret init" in told.advice
    with pytest.raises(ConfigurationError, match="faceid secret init"):
        open_or_create(config)
    assert not no_secret.exists() and open_store(address).head("store.json") is None
    made, said = IdentitySecret.make(), []
    told = secret_finding(config)
    assert told.state == "ok" and made.fingerprint in told.found and "keep a copy" in told.advice
    for _ in range(2):
        assert open_or_create(config, report=said.append)[1].value == made.value
    (once,) = said
    assert str(no_secret) in once and made.fingerprint in once and "keep a copy" in once


def test_a_store_of_this_machine_alone_needs_no_step(no_secret, tmp_path):
    config, said = NightlyConfig(store=str(tmp_path / "store")), []
    told = secret_finding(config)
    assert told.state == "ok" and str(no_secret) in told.found
    open_or_create(config, report=said.append)
    assert no_secret.exists() and said == []


def test_a_file_that_others_can_read_is_refused(no_secret):
    IdentitySecret.load(STORE)
    os.chmod(no_secret, 0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        IdentitySecret.load(STORE)


def test_a_damaged_file_is_not_replaced(no_secret):
    IdentitySecret.load(STORE)
    no_secret.write_text("")
    with pytest.raises(ConfigurationError, match="identity-secret"):
        IdentitySecret.load(STORE)
    assert no_secret.read_text() == ""


def test_a_secret_inside_the_store_that_it_protects_is_refused(no_secret, monkeypatch, tmp_path):
    monkeypatch.setenv("FACEID_IDENTITY_SECRET_FILE", str(tmp_path / "store" / "secret"))
    with pytest.raises(ConfigurationError, match="lies inside the store"):
        IdentitySecret.load(str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()
    assert IdentitySecret.load(str(tmp_path / "elsewhere")).source == str(tmp_path / "store" / "secret")


def test_the_secret_is_not_printed():
    secret = IdentitySecret(b"\xab" * 32)
    assert "ab" * 4 not in repr(secret) and "\\xab" not in repr(secret)


def test_a_store_knows_its_secret(any_store):
    ours, other = IdentitySecret(b"a" * 32), IdentitySecret(b"b" * 32, "the other file")
    made = initialize(any_store, ours)
    assert initialize(any_store, ours) == made == json.loads(any_store.get("store.json"))
    assert ours.value.hex() not in any_store.get("store.json").decode()
    with pytest.raises(SecretMismatch, match=r"the other file.*bring the store's secret"):
        initialize(any_store, other)
    assert [info.name for info in any_store.list("")] == ["store.json"]


def test_a_store_of_another_layout_or_in_ruins_is_refused(folder_store):
    ours = IdentitySecret(b"a" * 32)
    made = initialize(folder_store, ours)
    for data, error in (
        (json.dumps(made | {"layout_version": layout.LAYOUT_VERSION + 1}).encode(), ConfigurationError),
        (b"{", StoreError),
    ):
        folder_store.replace_if_match("store.json", data, folder_store.head("store.json").etag)
        with pytest.raises(error):
            initialize(folder_store, ours)
