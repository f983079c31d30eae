"""The current run: set by a run that the gate lets pass, compared past interrupted runs, kept by gc, seen by queries."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from data_contracts import contract
from faceid_core.config import parse_config
from faceid_core.errors import ConfigurationError, DamagedRecord
from faceid_core.outcomes import Outcome
from faceid_core.publish.comparison import compare_with_last_run
from faceid_core.publish.promotion import judge
from faceid_core.store import IdentitySecret, initialize, open_store
from faceid_core.store.layout import PROMOTED
from faceid_core.tables import Tables
from faceid_core.tables.promoted import promote, read_promoted
from flows.cli import cli
from tests.benchmarks.table_nights import night, run_name
from tests.code.test_compare import with_likeness

PEOPLE, PROMPTS = 24, 3


class Notes:
    def __init__(self):
        self.told = []

    def note(self, text):
        self.told.append(text)


def publish(folder, number: int, likeness: float, *, complete: bool = True, spread: float = 0.0, weak="", **gate):
    """Publish a night as a run does, and judge it."""
    store = open_store(str(folder))
    initialize(store, IdentitySecret(b"5" * 32))
    made = with_likeness(
        night(number, PEOPLE, prompts=PROMPTS, metrics=("identity", "concepts")), likeness, spread=spread
    )
    photos = [
        row | {"photo_digest": "a" * 64, "weak": row["identity_id"] == weak if row["outcome"] == "done" else None}
        for row in made["identity_outcomes"].to_pylist()
    ]
    row = made["runs"].to_pylist()[0] | {"exit_status": 0 if complete else 2}
    made |= {"runs": contract("runs").table([row]), "identity_outcomes": contract("identity_outcomes").table(photos)}
    Tables(store).publish(run_name(number), made)
    config = parse_config(
        {"name": "nightly", "store": str(folder), "gate": {"concepts": -1.0, **gate.pop("gate", {})}, **gate}
    )
    run = SimpleNamespace(
        run_id=run_name(number), store=store, config=config, started_at=row["started_at"], evaluation_only=False,
        reporter=Notes(), outcome_reports={"a": SimpleNamespace(outcome=Outcome.DONE)},
    )  # fmt: skip
    return store, judge(run, 0 if complete else 2), run.reporter.told


def test_a_run_is_compared_with_the_last_complete_one_and_its_page_says_what_changed(tmp_path):
    publish(tmp_path, 0, 0.5)
    _, verdict, _ = publish(tmp_path, 1, 0.1, complete=False)
    assert verdict.sentence == f"current stays {run_name(0)}: this run is not complete"
    store, verdict, told = publish(tmp_path, 2, 0.4, spread=0.02, weak="person-0002")
    assert told == [] and verdict.against_last.first == run_name(0), "the interrupted one between does not count"
    assert verdict.sentence.startswith(f"current stays {run_name(0)}: identity −0.1".replace("−", "-"))
    page = store.get(f"runs/{run_name(2)}/comparison.html").decode()
    assert run_name(0) in page and run_name(1) not in page and "worse" in page
    (change,) = verdict.changes
    assert (change.identity_key, change.kind, change.text) == (f"{2:032x}", "weak", "weak, was not")
    assert change.identity_key[:12] in page and "person-0" not in page
    assert compare_with_last_run(Tables(store), run_name(2)).last_run_id == run_name(0)
    # As bad as the one before, and still worse than the current one.
    _, again, _ = publish(tmp_path, 3, 0.4, spread=0.02)
    assert not again.against_last.fails and again.against_current.fails
    assert read_promoted(store) == {"nightly": run_name(0)}


def test_readers_see_the_current_run_and_a_person_may_set_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEID_IDENTITY_SECRET", (b"5" * 32).hex())
    publish(tmp_path, 0, 0.5)
    store, verdict, _ = publish(tmp_path, 1, 0.5)
    assert verdict.sentence == f"current: {run_name(1)}, in place of {run_name(0)}"
    _, held, _ = publish(tmp_path, 2, 0.3, gate={"promote": "never"})
    assert held.sentence == ""
    _, chosen, _ = publish(tmp_path, 3, 0.9, run={"only": ["person-0001"]})
    assert f"current stays {run_name(1)}: " in chosen.sentence

    def shown(sql):
        return Tables(store).query(sql).to_pylist()

    assert shown("select run_id from current_runs") == [{"run_id": run_name(1)}]
    assert shown("select distinct run_id, count(*) as n from current group by 1") == [
        {"run_id": run_name(1), "n": PEOPLE}
    ]
    place = ["--store", str(tmp_path)]
    told = CliRunner().invoke(cli, ["promote", run_name(0), *place])
    assert told.output == f"current nightly: {run_name(0)}, in place of {run_name(1)}\n", told.output
    assert shown("select run_id from current_runs") == [{"run_id": run_name(0)}]
    refused = CliRunner().invoke(cli, ["promote", "no-such-run", *place]).exception
    assert isinstance(refused, ConfigurationError) and "no run 'no-such-run'" in str(refused)
    compared = CliRunner().invoke(cli, ["compare", "current", run_name(1), *place])
    assert compared.exit_code == 0 and f"{run_name(0)} to {run_name(1)}" in compared.output


def test_a_decision_that_was_overtaken_is_made_again(folder_store):
    assert promote(folder_store, "nightly", "r1", in_place_of=None)
    assert promote(folder_store, "weekly", "w1", in_place_of=None)
    assert not promote(folder_store, "nightly", "r3", in_place_of="r0"), "r1 is current, not r0"
    assert promote(folder_store, "nightly", "r2", in_place_of="r1")
    assert promote(folder_store, "nightly", "r2", in_place_of="r1"), "it stands already"
    assert read_promoted(folder_store) == {"nightly": "r2", "weekly": "w1"}
    folder_store.replace_if_match(PROMOTED, b"{", folder_store.get_with_etag(PROMOTED)[1])
    with pytest.raises(DamagedRecord, match=r"promoted\.json.*faceid promote RUN"):
        read_promoted(folder_store)
