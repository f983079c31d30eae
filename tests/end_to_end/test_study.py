"""A small study through the ordinary pipeline: interrupted, gone on with, from the cache, refused; who may judge what."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from faceid_core.config import changed, load_config
from faceid_core.errors import ConfigurationError
from faceid_core.miniature import people
from faceid_core.miniature.samples import POPULATIONS
from faceid_core.nightly import drive_inline
from faceid_core.personalize import slots
from faceid_core.run.identities import manifest_source, read_identities
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.studies import definitions
from faceid_core.studies.definitions import studies
from faceid_core.studies.rows import read_rows
from faceid_core.studies.run import run_study, study_config
from faceid_core.studies.several import FIGURES
from flows.cli import cli

GRID = """\
name: two
prompts:
  - {id: beach, text: "a photo of V* on the beach", category: scene, expected: {scene: beach}}
  - {id: smiling, text: "a photo of the face of V* smiling", category: attribute, expected: {attribute: smiling}}
"""


def no_night(config):
    raise AssertionError(f"{config.name} was to be run, although the store holds it")


def faceid_study(folder, *arguments):
    """The command on the laboratory's store."""
    usual = ("study", "kv-split", "--config", folder / "night.yaml", "--people", 2, "--seeds", 1)
    return CliRunner().invoke(cli, [str(each) for each in (*usual, *arguments)], catch_exceptions=False)


def night_until(label):
    """Run runs inline; at the variant of that name the user presses Ctrl-C."""

    def start_run(config):
        if config.name.endswith(label):
            raise KeyboardInterrupt
        run = open_run(config, LogReporter())
        drive_inline(run)
        return run

    return start_run


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    """A store in which K/V split was interrupted at its second variant, then gone on with."""
    folder = tmp_path_factory.mktemp("laboratory")
    (folder / "grid.yaml").write_text(GRID)
    (folder / "night.yaml").write_text(
        f"store: {folder / 'store'}\n"
        "personalize: {preset: semantic-fidelity, slots: 2, method: {steps: 2, samples_per_step: 5}}\n"
        f"generate: {{grid: {folder / 'grid.yaml'}, steps: 2, batch: 4}}\n"
        "score: {named_people: 1, metrics: [identity, concepts]}\n"
        "execution: {executor: inline, threads_per_worker: 1}\n"
    )
    config = load_config(folder / "night.yaml")

    def ask(study="kv-split", start_run=no_night, people=2, seeds=1, config=config, out="out", **more):
        return run_study(
            studies()[study], config, people=people, seeds=seeds, out=folder / out,
            start_run=start_run, print_line=str, **more,
        )  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACEID_IDENTITY_SECRET", "5a" * 32)
        with pytest.raises(KeyboardInterrupt):
            ask(start_run=night_until("off"))
        interrupted = read_rows(folder / "out" / "kv-split.csv")
        told = faceid_study(folder, "--out", folder / "out")
        yield SimpleNamespace(
            ask=ask, folder=folder, config=config, interrupted=interrupted, told=told, answer=ask()
        )


def test_an_interrupted_study_goes_on_where_it_stopped(laboratory):
    before, after = laboratory.interrupted, read_rows(laboratory.folder / "out" / "kv-split.csv")
    assert set(before.variant) == {"", "on"}
    told = laboratory.told
    assert told.exit_code == 0, told.output
    assert (
        "4 variants, 1 of them in the store" in told.output
        and "variant 2 of 4: off, framing said, 3 to compute" in told.output
    )
    assert after.variant.value_counts().to_dict() == {"": 2, "on": 4, "off": 4}
    assert after.condition.value_counts().to_dict() == {"": 2, "said": 4, "unsaid": 4}
    measured = after[after.kind == "person"]
    assert measured.copying.between(-1, 1).all(), "the renderer has other pictures of a study's people"
    assert set(after[after.kind != "person"].copying.notna()) == {True}, "of class word and named people as well"
    assert measured.balance.between(0, 2).all() and set(measured.samples) == {10}
    assert set(measured.subject) == {"second-held-out-200564", "second-held-out-200565"}
    assert [run.split("-", 1)[1][:-9] for run in measured.run_id.unique()] == [
        "study-kv-split-said-on",
        "study-kv-split-said-off",
        "study-kv-split-unsaid-on",
        "study-kv-split-unsaid-off",
    ]
    page = (laboratory.folder / "out" / "kv-split.md").read_text()
    assert page.count("| **on** | 2 |") == 2, "a table for each condition"
    assert "identity, said | identity, unsaid" in page
    assert "## Framing unsaid: `a photo of {}`" in page and "named people (ceiling)" in page


def test_the_same_study_again_runs_no_night_and_says_the_same(laboratory):
    files = {file.name: file.read_bytes() for file in laboratory.answer.files}
    again = laboratory.ask()
    assert again.computed == () and again.cached == (
        "on, framing said", "off, framing said", "on, framing unsaid", "off, framing unsaid"
    )  # fmt: skip
    assert {file.name: file.read_bytes() for file in again.files} == files


def test_pairs_are_drawn_of_what_another_study_learned(laboratory, monkeypatch):
    answer = laboratory.ask("several", names=("with",))
    assert answer.computed == () and answer.cached == ("with",)
    table = laboratory.folder / "out" / "several.csv"
    (pair,) = read_rows(table, FIGURES).to_dict("records")
    assert pair["subject"] == "second-held-out-200564 and second-held-out-200565" and pair["images"] == 6
    assert 0 <= pair["each_own"] <= pair["both_found"] <= 1 and 0 <= pair["scene_obeyed"] <= 1
    before = table.read_bytes()
    with monkeypatch.context() as patch:  # what is there is not drawn again
        patch.setattr("faceid_core.studies.run.pair_rows", None)
        for more in ({}, {"table_only": True}):
            assert laboratory.ask("several", names=("with",), **more).cached == ("with",)
    assert table.read_bytes() == before


def test_studies_share_the_variant_that_is_the_default(laboratory):
    answer = laboratory.ask("lambda", names=("0.003", "0.05"), table_only=True)
    assert answer.cached == ("0.003, framing said", "0.003, framing unsaid")
    assert answer.missing == ("0.05, framing said", "0.05, framing unsaid")
    shared = read_rows(laboratory.folder / "out" / "lambda.csv")
    own = read_rows(laboratory.folder / "out" / "kv-split.csv")
    figures = [
        "condition",
        "subject",
        "balance",
        "identity_similarity",
        "concepts_obeyed",
        "run_id",
        "variant_digest",
    ]
    on = own[own.variant == "on"][figures].reset_index(drop=True)
    assert shared[shared.variant == "0.003"][figures].reset_index(drop=True).equals(on)


def test_people_whose_training_diverges_count_as_nothing_of_the_way(laboratory, monkeypatch):
    monkeypatch.setattr(slots, "_LONGEST_VECTOR", 0.1)
    config = changed(laboratory.config, {"personalize.method.learning_rate": 0.11}, source="test")
    answer = laboratory.ask(
        start_run=night_until("none"),
        config=config,
        names=("off",),
        conditions=("said",),
        fresh=True,
        out="wild",
    )
    missing = answer.absent["off, framing said"]
    assert set(missing) == {"second-held-out-200564", "second-held-out-200565"}
    measured = read_rows(laboratory.folder / "wild" / "kv-split.csv").query("kind == 'person'")
    assert set(measured.subject) == set(missing)
    assert (measured.balance == 0).all() and (measured.identity_fraction == 0).all()
    page = (laboratory.folder / "wild" / "kv-split.md").read_text()
    assert "diverged: off (0 learned by a second attempt at a lower rate, 2 not, counted as 0)" in page


def test_rows_measured_otherwise_are_refused_before_any_night(laboratory):
    with pytest.raises(ConfigurationError, match="measured with other pictures; "):
        laboratory.ask(seeds=2)
    other = changed(laboratory.config, {"personalize.method.steps": 3}, source="test")
    with pytest.raises(ConfigurationError, match="another method in 'off', 'on'"):
        laboratory.ask(config=other)
    assert len(laboratory.ask(config=other, fresh=True, table_only=True).missing) == 4
    assert len(read_rows(laboratory.folder / "out" / "kv-split.csv")) == 10, (
        "nothing measured, nothing replaced"
    )


def test_the_table_alone_is_made_from_the_store(laboratory):
    folder = laboratory.folder
    told = faceid_study(folder, "--out", folder / "again", "--table-only")
    assert told.exit_code == 0, told.output
    assert (folder / "again" / "kv-split.csv").read_bytes() == (folder / "out" / "kv-split.csv").read_bytes()
    told = faceid_study(folder, "--out", folder / "none", "--table-only", "--set", "personalize.seed=1")
    assert told.exit_code == 2 and "not in the store: off, framing said" in told.output
    assert not (folder / "none").exists()


def test_what_reports_never_selects_and_what_selects_never_reports(laboratory, monkeypatch):
    tune = studies()["tune"]
    with pytest.raises(ConfigurationError, match="chooses settings and must not ask"):
        laboratory.ask("tune")
    with monkeypatch.context() as patch:
        patch.setattr(definitions, "SELECTION_SCORERS", ("miniature",))
        with pytest.raises(ConfigurationError, match="reports and must not ask"):
            laboratory.ask("presets")
        chosen = read_identities(study_config(tune, laboratory.config, people=4, seeds=1))
    seeds = {int(person.identity_id.removeprefix("tuning-")) for person in chosen}
    assert len(seeds) == 4 and seeds <= set(people.TUNING_SEEDS)
    reported = read_identities(study_config(studies()["presets"], laboratory.config, people=48, seeds=1))
    seeds = {int(person.identity_id.removeprefix("second-held-out-")) for person in reported}
    assert seeds == set(range(200_564, 200_612))


def test_people_who_report_are_in_no_other_set():
    """Neither tuned on, nor trained on, nor in a report of version 0.1, nor measuring the scorers (the first 500)."""
    reporting = set(POPULATIONS["second-held-out"])
    assert len(reporting) == 48 and reporting <= set(people.HELD_OUT_SEEDS[500:])
    others = (
        people.TUNING_SEEDS, people.NAMED_SEEDS, people.SAMPLE_SEEDS, people.SCORER_TRAINING_SEEDS,
        people.SECOND_SCORER_TRAINING_SEEDS, people.ANONYMOUS_SEEDS, POPULATIONS["held-out"], POPULATIONS["tuning"],
    )  # fmt: skip
    assert not any(reporting & set(each) for each in others)
    for study in studies().values():
        assert study.identities(4).split(":")[1] == ("tuning" if study.selects else "second-held-out")
        assert study.people <= len(POPULATIONS[study.identities(4).split(":")[1]])
    assert studies()["tune"].people >= 12


def test_a_study_with_conditions_has_their_prompts(laboratory):
    other = changed(laboratory.config, {"personalize.method.template": "a picture of {}"}, source="test")
    with pytest.raises(ConfigurationError, match="trains with the prompts of its conditions"):
        laboratory.ask(config=other)
    with pytest.raises(ConfigurationError, match="no condition 'half'; its conditions are: said, unsaid"):
        laboratory.ask(conditions=("half",))


def test_power_is_printed_from_a_table(laboratory):
    told = CliRunner().invoke(cli, ["study", "kv-split", "--power", "--rows", str(laboratory.folder / "out")])
    assert told.exit_code == 0, told.output
    assert "## kv-split, framing unsaid: 48 people x 20 prompts x 1 seed" in told.output
    assert "Spread of 2 people with 2 pictures each" in told.output
    assert "| Separate K and V vectors do better than shared ones. | balance | off |" in told.output
    told = CliRunner().invoke(cli, ["study", "pairs", "--power", "--rows", str(laboratory.folder)])
    assert "name the folder of a table with --rows" in str(told.exception or told.output)
    told = CliRunner().invoke(cli, ["study"])
    assert told.exit_code == 2 and "Missing argument 'STUDY'" in told.output


def test_a_setting_that_is_no_yaml_is_refused():
    told = CliRunner().invoke(cli, ["study", "kv-split", "--set", "name=[a"])
    assert isinstance(told.exception, SystemExit) and "'name=[a' has a value that is no YAML" in told.output


def test_a_study_without_floor_and_ceiling_is_refused(laboratory):
    for key, value in (("score.named_people", 0), ("score.metrics", ("identity",))):
        config = changed(laboratory.config, {key: value}, source="test")
        with pytest.raises(ConfigurationError, match=key):
            laboratory.ask(config=config)
    photographs = changed(laboratory.config, {"base_model.source": "sd15"}, source="test")
    with pytest.raises(ConfigurationError, match=r"base_model.source is 'sd15', which knows no named people"):
        laboratory.ask(config=photographs)
    with pytest.raises(ConfigurationError, match="no variant 'sometimes'; its variants are: off, on"):
        laboratory.ask(names=("sometimes",))


def test_people_of_a_population_are_its_own_and_as_many_as_asked(laboratory):
    def source(identities):
        return manifest_source(changed(laboratory.config, {"identities": identities}, source="test"))

    folder = Path(source("miniature:held-out:2")).parent
    photo = folder / "held-out-200500.png"
    genuine = photo.read_bytes()
    photo.write_bytes(b"exchanged")
    source("miniature:held-out:2")
    assert photo.read_bytes() == genuine, "a study is on its own people, whatever lies in the folder"
    for wrong in ("miniature:held-out:65", "miniature:held-out:0", "miniature:strangers:3"):
        with pytest.raises(ConfigurationError, match="miniature:held-out:1 to 64"):
            source(wrong)
