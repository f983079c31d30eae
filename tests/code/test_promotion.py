"""The current run: set by a run that the gate lets pass, compared past interrupted runs, kept by gc, seen by queries."""

from __future__ import annotations

from types import SimpleNamespace

import duckdb
import pyarrow as pa
import pytest
from click.testing import CliRunner

from data_contracts import contract
from faceid_core.config import parse_config
from faceid_core.errors import ConfigurationError, DamagedRecord, StoreError
from faceid_core.evaluate.metric_rows import MetricRows
from faceid_core.outcomes import EXIT_WORSE, Outcome
from faceid_core.publish import promotion
from faceid_core.publish.earlier_runs import KINDS, earlier_runs, find_run
from faceid_core.publish.gate import compare_runs
from faceid_core.publish.promotion import judge
from faceid_core.publish.publish import publish as publish_run
from faceid_core.store import IdentitySecret, initialize, open_store
from faceid_core.store.layout import PROMOTED
from faceid_core.tables import Tables
from faceid_core.tables.promoted import promote, read_promoted
from flows.cli import cli
from tests.benchmarks.table_nights import night, run_name
from tests.code.test_compare import with_likeness
from tests.helpers.pretend_night import pretend_config, pretend_night, write_manifest

PEOPLE, PROMPTS = 24, 3


class Notes:
    def __init__(self):
        self.told = []

    def note(self, text):
        self.told.append(text)


def publish(folder, number: int, likeness: float, **more):
    """Publish a night as a run does, and judge it."""
    run, status, earlier = published(folder, number, likeness, **more)
    return run.store, judge(run, status, earlier), run.reporter.told


def published(
    folder, number: int, likeness: float, *, complete=True, outcome=Outcome.DONE,
    spread=0.0, weak="", edit=lambda made: made, **sections
):
    """A published night, its exit status, and what the tables showed before it."""
    store = open_store(str(folder))
    initialize(store, IdentitySecret(b"5" * 32))
    made = with_likeness(
        night(number, PEOPLE, prompts=PROMPTS, metrics=("identity", "concepts")), likeness, spread=spread
    )
    photos = [
        row | {"photo_digest": "a" * 64, "weak": row["identity_id"] == weak if row["outcome"] == "done" else None}
        for row in made["identity_outcomes"].to_pylist()
    ]
    only = sections.get("run", {}).get("only", ())
    photos = [row for row in photos if not only or row["identity_id"] in only]
    row = made["runs"].to_pylist()[0] | {"exit_status": 0 if complete else 2, "subset": bool(only)}
    made |= {"runs": contract("runs").table([row]), "identity_outcomes": contract("identity_outcomes").table(photos)}
    earlier = earlier_runs(Tables(store), "nightly", row["started_at"])
    Tables(store).publish(run_name(number), edit(made))
    gate = {"concepts": -1.0, **sections.pop("gate", {})}
    config = parse_config({"name": "nightly", "store": str(folder), "gate": gate, **sections})
    run = SimpleNamespace(
        run_id=run_name(number), store=store, config=config, started_at=row["started_at"], evaluation_only=False,
        reporter=Notes(), outcome_reports={"a": SimpleNamespace(outcome=outcome)},
    )  # fmt: skip
    return run, 0 if complete else 2, earlier


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

    _, empty, _ = publish(tmp_path, 4, 0.9, outcome=Outcome.REJECTED)
    assert empty.sentence == f"current stays {run_name(1)}: this run has no result of any identity"

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


def test_a_run_of_chosen_people_is_no_last_complete_run_and_no_one_is_gone_in_it(tmp_path):
    publish(tmp_path, 0, 0.5)
    store, chosen, _ = publish(tmp_path, 1, 0.5, run={"only": ["person-0001", "person-0002"]})
    assert chosen.against_last.first == run_name(0) and chosen.against_last.people == 2
    assert chosen.changes == (), "the others were not asked for"
    _, whole, _ = publish(tmp_path, 2, 0.5)
    assert whole.against_last.first == run_name(0) and whole.changes == (), "no one is new, who only was not chosen"
    tables = Tables(store)
    assert find_run(tables, "previous", beside=run_name(2)) == run_name(0)
    previous = tables.query("SELECT run_id FROM latest_runs WHERE place = 2").to_pylist()
    assert previous == [{"run_id": run_name(0)}]


def with_outcomes(**changed):
    """An edit of a night: identity id -> what its row of outcomes has otherwise; None leaves the row out."""

    def edit(made: dict) -> dict:
        rows = made["identity_outcomes"].to_pylist()
        rows = [row | (changed.get(row["identity_id"].replace("-", "_"), {}) or {}) for row in rows]
        gone = {name.replace("_", "-") for name, value in changed.items() if value is None}
        rows = [row for row in rows if row["identity_id"] not in gone]
        return made | {"identity_outcomes": contract("identity_outcomes").table(rows)}

    return edit


def with_moved(made: dict, **moved: float) -> dict:
    """A night whose prompts differ, in which some people's likeness is another, a little more so with each prompt."""
    images = [row | {"prompt": f"{row['prompt']}, {row['prompt_id']}"} for row in made["images"].to_pylist()]
    rows = made["identity_outcomes"].to_pylist()
    shifts = {row["generate_key"]: moved.get(row["identity_id"].replace("-", "_")) for row in rows}
    metrics = made["image_metrics"].to_pylist()
    for row in metrics:
        if row["metric"] == "identity" and shifts.get(row["generate_key"]) is not None:
            row["value"] += shifts[row["generate_key"]] + 0.002 * int(row["prompt_id"].removeprefix("prompt-"))
    return made | {
        "images": contract("images").table(images),
        "image_metrics": contract("image_metrics").table(metrics),
    }


def test_every_kind_of_change_is_told_and_what_matters_most_comes_first(tmp_path):
    absent = with_outcomes(person_0009=None)
    publish(tmp_path, 0, 0.5, weak="person-0006", edit=lambda made: with_moved(absent(made)))
    rejected = dict.fromkeys(("personalize_key", "generate_key", "stage_results", "weak")) | {
        "outcome": "rejected", "stage": "detect", "reason": "blurred", "message": "blurred",
    }  # fmt: skip
    edit = with_outcomes(
        person_0003={"outcome": "cached"}, person_0004=rejected, person_0007={"photo_digest": "b" * 64},
        person_0008=None,
    )  # fmt: skip
    _, verdict, told = publish(
        tmp_path, 1, 0.5, weak="person-0005",
        edit=lambda made: with_moved(edit(made), person_0001=-0.2, person_0002=0.2),
    )  # fmt: skip
    found = [(each.kind, int(each.identity_key, 16), each.text) for each in verdict.changes]
    likeness = [(kind, who, text[: text.index(" (p")]) for kind, who, text in found if kind in ("worse", "better")]
    # Two thousandths more with each of three prompts, over the eight tenths between floor and ceiling.
    assert likeness == [
        ("worse", 1, f"normalized identity {(-0.2 + 0.002) / 0.8:+.2f}"),
        ("better", 2, f"normalized identity {(0.2 + 0.002) / 0.8:+.2f}"),
    ]
    assert [each for each in found if each[0] not in ("worse", "better")] == [
        ("outcome", 4, "rejected (blurred), was done"),
        ("weak", 5, "weak, was not"),
        ("weak", 6, "no longer weak"),
        ("photo", 7, "another photo"),
        ("new", 9, "done"),
        ("gone", 8, "was done"),
    ]
    kinds = [kind for kind, *_ in found]
    assert set(kinds) == set(KINDS) and kinds == sorted(kinds, key=KINDS.index) and told == []


def overtaken(monkeypatch, *others: str) -> None:
    """Let other runs be promoted just before this one's writes, one before each."""
    waiting, real = list(others), promote

    def late(store, name, run_id, *, in_place_of):
        if waiting:
            assert real(store, name, waiting.pop(0), in_place_of=in_place_of)
        return real(store, name, run_id, in_place_of=in_place_of)

    monkeypatch.setattr(promotion, "promote", late)


def test_a_run_that_is_overtaken_is_compared_with_the_run_that_came_before_it(tmp_path, monkeypatch):
    publish(tmp_path, 0, 0.5)
    publish(tmp_path, 1, 0.6, gate={"promote": "never"})
    overtaken(monkeypatch, run_name(1))
    store, verdict, _ = publish(tmp_path, 2, 0.5, spread=0.02)
    assert verdict.against_last.first == run_name(1) and verdict.against_current is None
    assert verdict.sentence.startswith(f"current stays {run_name(1)}: identity -")
    # By a later run that was published since this one looked at the tables.
    run, status, earlier = published(tmp_path, 3, 0.9)
    publish(tmp_path, 4, 0.9, gate={"promote": "never"})
    overtaken(monkeypatch, run_name(4))
    assert judge(run, status, earlier).sentence == f"current stays {run_name(4)}: it started later"
    # Without end: it says so, and what to do.
    overtaken(monkeypatch, *(run_name(each % 2) for each in range(5)))
    _, lost, _ = publish(tmp_path, 5, 0.9)
    assert lost.sentence.startswith("not promoted: other runs were promoted") and lost.sentence.endswith(
        f"faceid promote {run_name(5)}"
    )
    assert read_promoted(store) == {"nightly": run_name(0)} and lost.page


def test_a_promotion_whose_answer_is_lost_is_told_as_it_is(tmp_path, monkeypatch):
    store, *_ = publish(tmp_path, 0, 0.5)

    def unanswered(*place, **more):
        assert promote(*place, **more)
        raise StoreError("no answer")

    monkeypatch.setattr(promotion, "promote", unanswered)
    _, verdict, _ = publish(tmp_path, 1, 0.5)
    assert verdict.sentence == f"current: {run_name(1)}" and read_promoted(store) == {"nightly": run_name(1)}


def test_a_page_that_cannot_be_written_takes_no_promotion_back(tmp_path, monkeypatch):
    store, *_ = publish(tmp_path, 0, 0.5)

    def full(*_):
        raise StoreError("the disk is full")

    monkeypatch.setattr(promotion, "replace_object", full)
    _, verdict, told = publish(tmp_path, 1, 0.5)
    assert verdict.sentence == f"current: {run_name(1)}, in place of {run_name(0)}" and verdict.page == ""
    assert read_promoted(store) == {"nightly": run_name(1)} and verdict.against_last.first == run_name(0)
    (note,) = told
    assert "comparison.html is not written: the disk is full" in note
    assert note.endswith(f"faceid compare {run_name(0)} {run_name(1)}") and "not promoted" not in note


@pytest.mark.parametrize("complete", [True, False])
def test_a_damaged_record_of_current_runs_stops_no_comparison_and_no_run(tmp_path, complete):
    store, *_ = publish(tmp_path, 0, 0.5)
    store.replace_if_match(PROMOTED, b"{", store.get_with_etag(PROMOTED)[1])
    _, verdict, _ = publish(tmp_path, 1, 0.5, complete=complete)
    assert verdict.against_last.people == PEOPLE - 1 and verdict.page
    assert "which run is current is not known" in verdict.sentence and PROMOTED in verdict.sentence
    assert "delete it and promote a run again: faceid promote RUN" in verdict.sentence
    found = compare_runs(Tables(store), run_name(0), run_name(1), parse_config({}).gate)
    assert found.people == PEOPLE - 1


def test_tables_that_cannot_be_compared_end_no_run(tmp_path, monkeypatch):
    store, *_ = publish(tmp_path, 0, 0.5)
    run, status, earlier = published(tmp_path, 1, 0.5)
    (lost, *_) = (tmp_path / "tables/image_metrics/v2").glob("*.parquet")
    lost.rename(tmp_path / "aside")
    verdict = judge(run, status, earlier)
    (note,) = run.reporter.told
    assert note.startswith(f"not compared with {run_name(0)}: cannot read table image_metrics")
    assert verdict.sentence.startswith("not promoted: cannot read table image_metrics") and verdict.page == ""
    assert read_promoted(store) == {"nightly": run_name(0)}
    (tmp_path / "aside").rename(lost)

    def starved(*_, **__):
        raise duckdb.OutOfMemoryException("no memory left")

    monkeypatch.setattr(Tables, "query", starved)
    assert judge(run, status, earlier).sentence == "not promoted: no memory left"


@pytest.mark.parametrize("page_is_written", [True, False])
def test_the_index_of_a_second_night_says_what_changed_and_which_run_is_current(
    tmp_path, monkeypatch, page_is_written
):
    monkeypatch.setenv("FACEID_IDENTITY_SECRET", (b"5" * 32).hex())
    # What is told of people here needs their outcomes alone; the made-up results hold neither scores nor pictures.
    monkeypatch.setattr("faceid_core.publish.scores.read_scores", lambda _: MetricRows())
    monkeypatch.setattr("faceid_core.publish.pages._write_page", lambda *_: False)
    config = pretend_config(str(tmp_path / "store"), write_manifest(tmp_path / "people", 3))

    def one_night():
        run = pretend_night(config)
        run.finish()
        return run, publish_run(run)

    first, alone = one_night()
    assert alone.verdict.sentence == f"current: {first.run_id}" and "compared" not in alone.places
    index = first.store.get(alone.index).decode()
    assert "What changed" not in index and "comparison.html" not in index
    (tmp_path / "people/000001.png").write_bytes(b"another photo of 1")
    if not page_is_written:
        real = promotion.replace_object
        monkeypatch.setattr(promotion, "replace_object", lambda *_: real(first.store, "nowhere/../at all", b""))
    second, done = one_night()
    index = second.store.get(done.index).decode()
    assert f"<p>current: {second.run_id}, in place of {first.run_id}</p>" in index
    assert f'What changed since run <span class="key">{first.run_id}</span>' in index and "another photo" in index
    assert ("comparison.html" in index) == ("compared" in done.places) == page_is_written
    compared = done.verdict.against_last
    assert (compared.first, compared.second) == (first.run_id, second.run_id)


def test_manifests_that_take_turns_on_one_store_do_not_look_for_every_page(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEID_IDENTITY_SECRET", (b"5" * 32).hex())
    monkeypatch.setattr("faceid_core.publish.scores.read_scores", lambda _: MetricRows())
    looked_for = []
    monkeypatch.setattr("faceid_core.publish.pages._write_page", lambda _, name, *__: looked_for.append(name) or True)

    def night_of(name):
        manifest = tmp_path / name / "identities.csv"
        if not manifest.exists():
            write_manifest(manifest.parent, 3)
            manifest.write_text(manifest.read_text().replace("person-", f"{name}-"))
        run = pretend_night(pretend_config(str(tmp_path / "store"), manifest, name=name))
        run.finish()
        looked_for.clear()
        publish_run(run)
        return len(looked_for)

    assert [night_of("first"), night_of("second")] == [3, 3]
    assert [night_of("first"), night_of("second")] == [0, 0], "their own last runs recorded their pages"


def test_a_run_that_lacks_a_figure_of_the_current_one_does_not_follow_it(tmp_path):
    def without_identity(made):
        return made | {
            "identity_summary": made["identity_summary"].set_column(
                made["identity_summary"].schema.get_field_index("normalized_identity"),
                made["identity_summary"].schema.field("normalized_identity"),
                pa.nulls(made["identity_summary"].num_rows, pa.float64()),
            )
        }

    publish(tmp_path, 0, 0.5)
    _, verdict, _ = publish(tmp_path, 1, 0.5, edit=without_identity)
    assert verdict.sentence == f"current stays {run_name(0)}: identity is not measured"
    asked = ["compare", run_name(0), run_name(1), "--store", str(tmp_path)]
    told = CliRunner().invoke(cli, asked, env={"COLUMNS": "120"})
    assert told.exit_code == EXIT_WORSE and "not measured" in told.output
    assert "not measured" in open_store(str(tmp_path)).get(verdict.page).decode()
    _, verdict, _ = publish(tmp_path, 2, 0.5, edit=without_identity, gate={"promote": "complete"})
    assert verdict.sentence.startswith(f"current: {run_name(2)}")


def test_a_day_that_does_not_exist_is_no_run(tmp_path):
    store, _, _ = publish(tmp_path, 0, 0.5)
    with pytest.raises(ConfigurationError, match="show no run '2026-02-30'"):
        find_run(Tables(store), "2026-02-30")
