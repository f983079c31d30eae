"""A store that version 0.1 wrote, brought to the present layout."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from deltalake import DeltaTable

from data_contracts import NAMES, contract
from faceid_core.errors import ConfigurationError, SecretMismatch, StoreError
from faceid_core.nightly import drive_inline
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.store import FolderStore, RunLease, StoreBusy, layout
from faceid_core.store.secret import IdentitySecret
from faceid_core.tables import Tables
from faceid_core.tables.columns import RENAMED
from faceid_core.upkeep.erase import erase
from faceid_core.upkeep.migrate import migrate, new_call
from faceid_core.upkeep.verify import verify
from flows.cli import cli
from tests.end_to_end.conftest import people, small  # noqa: F401
from tests.helpers.faulty import WRITES, FaultCount, Faults, FaultyStore

# Written by 0.1.0: the run of the fixture `small` over the fixture `people`, under the same identity secret.
OLD = Path(__file__).parents[1] / "data" / "store-0.1.0.tar.xz"
SECRET = IdentitySecret(bytes.fromhex("5a" * 32))


@pytest.fixture
def old(tmp_path) -> FolderStore:
    """The store of 0.1."""
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    return FolderStore((tmp_path / "store").as_uri())


def test_an_older_store_is_refused_with_the_command_that_migrates_it(old):
    with pytest.raises(ConfigurationError, match="faceid store migrate"):
        layout.read_layout(old)


def test_the_command_migrates_once_and_says_what_it_did(old, monkeypatch):
    monkeypatch.setenv("FACEID_IDENTITY_SECRET", "5a" * 32)
    first, second = (CliRunner().invoke(cli, ["store", "migrate", "--store", old.url]) for _ in range(2))
    assert first.exit_code == 0 and "layout 1 to 3" in first.output, first.output
    assert second.exit_code == 0 and "has layout 3 already" in second.output


def test_a_migrated_store_has_every_result_and_a_run_learns_nothing_again(old, small, people, tmp_path):  # noqa: F811
    before = sum(1 for info in old.list("") if "/stages/" in info.name)
    found = migrate(old, SECRET)
    assert (found.layout, found.manifests, found.unreadable) == (1, before, [])
    assert sum(1 for info in old.list("") if "/stages/" in info.name) == before
    assert verify(old).sound
    run = open_run(small(str(tmp_path / "store"), people), LogReporter())
    finished = drive_inline(run)
    # The version of stage detect was raised since: the same crops, so that nothing after it runs again.
    assert finished.exit_status == 0 and set(run.computed) == {"detect"}
    outcomes = Tables(old).query("select outcome from identity_outcomes order by 1").column(0).to_pylist()
    assert outcomes == ["done"] * 4
    again = migrate(old, SECRET)
    assert (again.layout, again.manifests) == (layout.LAYOUT_VERSION, 0)


def test_an_erased_person_leaves_no_row_under_the_old_keys(old):
    migrate(old, SECRET)
    erase(old, SECRET, "ann", wait=False)
    key = SECRET.identity_key("ann")
    left = Tables(old).query(f"select count(*) from images where subject = '{key}'").column(0).to_pylist()
    assert left == [0]
    assert not [info.name for info in old.list(f"identities/{key}/")]


def test_a_migration_that_is_cut_goes_on(old):
    """Writes fail at random until one attempt passes; then nothing is missing."""
    cut = 0
    for seed in range(8):
        faults = FaultCount(Faults(seed=seed, rate=0.05, calls=WRITES, kinds=("refused", "late")))
        try:
            migrate(FaultyStore(old, faults), SECRET)
        except StoreError:
            cut += 1
    assert cut > 3
    assert migrate(old, SECRET).unreadable == []
    assert verify(old).sound and layout.read_layout(old)["layout_version"] == layout.LAYOUT_VERSION


def test_another_secret_and_a_running_run_are_refused(old):
    with pytest.raises(SecretMismatch):
        migrate(old, IdentitySecret(b"b" * 32))
    with RunLease.acquire(old, "a-run"), pytest.raises(StoreBusy):
        migrate(old, SECRET)


def test_the_tables_are_brought_over_with_every_row_and_the_new_names(old):
    """What version 1 says is what version 2 says, whatever a column is called."""
    before = {name: _version_1(old, name) for name in NAMES}
    found = migrate(old, SECRET)
    tables = Tables(old)
    assert (
        found.rows == {name: table.num_rows for name, table in before.items()}
        and found.rows["image_metrics"] > 50
    )
    for name, table in before.items():
        kept = [column for column in table.column_names if column not in ("score_keys", "stage")]
        order = [(column, "ascending") for column in contract(name).primary_key]
        now = tables.read(name).sort_by(order)
        was = table.rename_columns([RENAMED.get(column, column) for column in table.column_names]).sort_by(
            order
        )
        for column in kept:
            column = RENAMED.get(column, column)
            assert now[column].to_pylist() == was[column].to_pylist(), (name, column)
    scores = tables.query("select count(*) from scores where metric = 'detection'").column(0)[0].as_py()
    assert scores == tables.query("select sum(images) from latest").column(0)[0].as_py() > 0
    missing = tables.query("select distinct null_reason from image_metrics where value is null")
    assert set(missing.column(0).to_pylist()) <= {"unknown"}
    assert not [info.name for info in old.list("tables/") if "/v1/" in info.name]


def test_a_store_of_layout_2_has_only_its_tables_brought_over(old):
    record, etag = old.get_with_etag(layout.STORE)
    old.replace_if_match(layout.STORE, record.replace(b'"layout_version":1', b'"layout_version":2'), etag)
    manifests = sorted(info.name for info in old.list("identities/") if "/stages/" in info.name)
    found = migrate(old, SECRET)
    assert (found.layout, found.manifests) == (2, 0) and found.rows["runs"] == 1
    assert manifests == sorted(info.name for info in old.list("identities/") if "/stages/" in info.name)


def _version_1(store, name):
    return DeltaTable(store.root / "tables" / name / "v1").to_pyarrow_table()


@pytest.mark.parametrize(("parametrization", "version"), [("name_basis", 4), ("block", 4), ("free", 3)])
def test_results_at_a_learning_rate_of_another_unit_are_not_taken_for_this_versions(parametrization, version):
    method = {"parametrisation": parametrization, "learning_rate": 0.4, "start": "mean_name"}
    preimage = {
        "stage": "personalise", "version": 3, "parameters": {"method": method, "seed": 0}, "precision": "float32",
        "inputs": {}, "weights": {},
    }  # fmt: skip
    call = new_call(preimage)
    assert (call.stage, call.version) == ("personalize", version)
    assert call.parameters["method"]["vector_length"] == "free"
    assert new_call({**preimage, "version": 2}).version == 2, "older results were other results already"
