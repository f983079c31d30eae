"""faceid plan and explain: what would be computed, why, for how long; and nothing in the store moves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from faceid_core.config.parse import changed
from faceid_core.errors import ConfigurationError
from faceid_core.plan.cache_miss import reason_of
from faceid_core.plan.estimate import pending_work
from faceid_core.plan.explain import explain
from faceid_core.plan.planning import plan_run
from faceid_core.run.lookup import lookup_stage
from faceid_core.run.open import open_run
from faceid_core.run.records import write_status
from faceid_core.run.reporter import LogReporter
from faceid_core.stages import STAGES
from faceid_core.store.differences import differences
from flows.cli import cli
from tests.helpers.pretend_night import SECONDS, pretend_config, pretend_night, write_manifest

PEOPLE, COMMON = 5, 2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The configuration of a run of five people that ended, and its folder."""
    folder = tmp_path_factory.mktemp("pretended")
    config = pretend_config(str(folder / "store"), write_manifest(folder / "people", PEOPLE))
    write_status(pretend_night(config), "complete")
    return config


def snapshot(root: str | Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time of change."""
    files = (path for path in Path(root).rglob("*") if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def numbers(found) -> dict[str, tuple[int, int, int]]:
    return {r.stage: (r.cached, len(r.misses), sum(r.waiting.values())) for r in found.stages}


def test_a_cached_night_computes_nothing(run):
    found = plan_run(run)
    assert all(misses == waiting == 0 for _, misses, waiting in numbers(found).values())
    assert found.estimate.worker_seconds == 0 and found.estimate.unknown == ()
    assert numbers(found)["detect"] == (PEOPLE + 1, 0, 0)  # the named person has a photo as well


def test_a_photo_that_is_not_there_is_named_with_its_path_on_this_screen(run, tmp_path):
    people = write_manifest(tmp_path, PEOPLE)
    lost = next(iter(sorted(tmp_path.rglob("*.png"))))
    lost.rename(lost.with_suffix(".PNG"))
    asked = ["plan", str(people), "--store", run.store, "--executor", "inline"]
    told = CliRunner().invoke(cli, asked, terminal_width=400)
    assert f"Looked for: {lost}" in told.output and "with other capital or small letters" in told.output


def test_people_who_are_new_wait_at_the_first_stage_and_are_estimated_by_others(run, tmp_path):
    more = changed(
        run,
        {"identities": str(write_manifest(tmp_path, PEOPLE + 2)), "execution.workers": 2},
        source="test",
    )
    found = plan_run(more)
    assert numbers(found)["detect"] == (PEOPLE + 1, 2, 0)
    assert found.stages[0].reasons() == [("first time", 2)]
    for stage in ("parse", "mask", "personalize", "generate"):
        assert numbers(found)[stage][1:] == (0, 2)
    assert numbers(found)["score"][1:] == (0, 2 * 8)  # six metrics, two floors
    seconds = found.estimate.seconds
    assert seconds["detect"] == pytest.approx(2 * SECONDS["detect"])
    assert seconds["personalize"] == pytest.approx(2 * SECONDS["personalize"])
    assert seconds["generate"] == pytest.approx(2 * SECONDS["generate"])
    assert found.estimate.wall_seconds == pytest.approx(found.estimate.worker_seconds / 2)


def test_the_estimate_grows_with_the_pictures(run):
    seeds = run.generate.seeds
    found = plan_run(changed(run, {"generate.seeds": 3 * seeds}, source="test"))
    (score,) = (row for row in found.stages if row.stage == "score")
    calls = len(score.misses) + sum(score.waiting.values())
    assert calls > PEOPLE and found.estimate.seconds["score"] == pytest.approx(3 * calls * 0.25)
    assert found.estimate.seconds["generate"] == pytest.approx(3 * (PEOPLE + COMMON) * SECONDS["generate"])


def test_a_run_that_was_stopped_leaves_the_estimate_of_what_it_did_not_reach(run, tmp_path):
    shutil.copytree(Path(run.store), tmp_path / "store")
    changes = {"store": str(tmp_path / "store"), "generate.seeds": 3 * run.generate.seeds}
    stopped = changed(run, changes, source="test")
    reached = tuple(stage for stage in STAGES if stage != "score")
    write_status(pretend_night(stopped, stages=reached), "stopped")
    found = plan_run(stopped)
    assert numbers(found)["generate"][1:] == (0, 0) and found.estimate.unknown == ()
    assert found.estimate.seconds["score"] > 0


def test_what_is_unknown_is_no_part_of_the_sum_and_the_sum_says_so(run):
    """A metric that this store never computed, beside pictures that it did draw."""
    changes = {"score.metrics": [*run.score.metrics, "copying"], "generate.steps": 7}
    found = plan_run(changed(run, changes, source="test"))
    assert found.estimate.unknown == ("score-copying",)
    asked = ["plan", run.identities, "--store", run.store, "--executor", "inline"]
    asked += ["--set", "score.named_people=1", "--set", "generate.steps=7", "--cost-per-hour", "2"]
    metrics = ",".join(changes["score.metrics"])
    told = CliRunner().invoke(cli, [*asked, "--set", f"score.metrics=[{metrics}]"], terminal_width=400).output
    assert "expected: at least" in told and "cost at least" in told
    assert "unknown, and not in these sums: no earlier result says how long score-copying takes" in told


def test_the_range_is_that_of_the_quartiles_and_any_run_counts_that_knows(run, tmp_path):
    """Training that took 15 to 60 s, in the first of three runs; the others trained nobody."""
    shutil.copytree(Path(run.store), tmp_path / "store")
    here = changed(run, {"store": str(tmp_path / "store")}, source="test")
    trained = sorted((tmp_path / "store").rglob("stages/personalize/*.json"))
    for path, seconds in zip(trained, [15.0, 24.0, 30.0, 36.0, 60.0], strict=True):
        record = json.loads(path.read_text())
        record["provenance"]["seconds"] = seconds
        path.write_text(json.dumps(record))
    for number in range(2):
        idle = changed(here, {"run.only": ["person-000001"], "faces.min_face_pixels": 20.0 + number}, source="test")
        write_status(pretend_night(idle, stages=("detect", "parse", "mask")), "stopped")
    changes = {"identities": str(write_manifest(tmp_path / "more", 1)), "personalize.seed": 77}
    estimate = plan_run(changed(here, changes, source="test")).estimate
    assert estimate.unknown == () and estimate.runs == (record["provenance"]["run_id"],)
    assert estimate.seconds["personalize"] == pytest.approx(30)
    assert estimate.worker_seconds - estimate.quick == pytest.approx(30 - 24)
    assert estimate.slow - estimate.worker_seconds == pytest.approx(36 - 30)


def test_a_stage_that_only_an_old_run_knows_is_estimated_all_the_same(run, tmp_path):
    shutil.copytree(Path(run.store), tmp_path / "store")
    here = changed(run, {"store": str(tmp_path / "store")}, source="test")
    for number in range(5):
        idle = changed(here, {"run.only": ["person-000001"], "faces.min_face_pixels": 20.0 + number}, source="test")
        write_status(pretend_night(idle, stages=("detect", "parse", "mask")), "stopped")
    people = tmp_path / "more" / "identities.csv"
    write_manifest(people.parent, 1)
    people.write_text("identity_id,photo,class_word\nsomebody-new,000000.png,person\n")
    estimate = plan_run(changed(here, {"identities": str(people)}, source="test")).estimate
    assert estimate.unknown == () and estimate.seconds["personalize"] == pytest.approx(SECONDS["personalize"])


def test_a_photo_exchanged_is_the_reason_for_its_person_only(run, tmp_path):
    manifest = write_manifest(tmp_path, PEOPLE)
    (tmp_path / "000003.png").write_bytes(b"another photo")
    found = plan_run(changed(run, {"identities": str(manifest)}, source="test"))
    assert found.stages[0].reasons() == [("photo changed", 1)]
    (subject,) = {miss.subject for row in found.stages for miss in row.misses}
    assert found.run.subjects[subject].identity_id == "person-000003"
    assert found.why_of(subject) == ("detect", "photo changed")


@pytest.mark.parametrize(
    ("change", "stage", "why"),
    [
        ({"personalize.seed": 7}, "personalize", "parameters.seed: 0 -> 7"),
        ({"generate.steps": 7}, "generate", "parameters.steps: 12 -> 7"),
        ({"faces.mask_region": "head"}, "mask", "parameters.region: 'face' -> 'head'"),
        (
            {"generate.use_strength": 0.5},
            "generate",
            "parameters.use: absent -> {'stages': [], 'kv': 'kv', 'strength': 0.5}",
        ),
    ],
)
def test_a_changed_parameter_is_named_with_both_values(run, change, stage, why):
    found = plan_run(changed(run, change, source="test"))
    (row,) = (row for row in found.stages if row.stage == stage)
    reasons = dict(row.reasons())
    before, _, after = why.partition(": ")
    told_why = next(text for text in reasons if before in text)
    assert after.replace("'", "") in told_why.replace("'", ""), told_why
    assert reasons[told_why] >= PEOPLE
    earlier = STAGES[: STAGES.index(stage)]
    assert all(numbers(found)[name][1:] == (0, 0) for name in earlier)


def test_changed_weights_and_versions_are_reasons():
    before = {"version": 1, "weights": {"base": "a" * 64}, "inputs": {"crop": "1" * 64}, "parameters": {}}
    after = {"version": 2, "weights": {"base": "b" * 64}, "inputs": {"crop": "2" * 64}, "parameters": {}}
    why = reason_of(differences(before, after))
    assert "stage version 1 -> 2" in why and f"weights of base changed ({'a' * 12} -> {'b' * 12})" in why
    assert "crop" not in why
    assert reason_of(differences(before, before | {"inputs": after["inputs"]})) == "crop changed"


def test_a_damaged_manifest_is_told_and_left_where_it_is(run, tmp_path):
    shutil.copytree(Path(run.store), tmp_path / "store")
    (first, *_) = sorted((tmp_path / "store" / "identities").glob("*/stages/mask/*.json"))
    first.write_bytes(first.read_bytes()[:-9])
    before = snapshot(tmp_path / "store")
    found = plan_run(changed(run, {"store": str(tmp_path / "store")}, source="test"))
    (row,) = (row for row in found.stages if row.stage == "mask")
    assert row.reasons() == [("its record in the store is damaged", 1)]
    assert snapshot(tmp_path / "store") == before


def test_plan_loads_no_model_library_and_makes_neither_store_nor_secret(run, tmp_path):
    secret = tmp_path / "secret"
    code = (
        "import sys; sys.argv = ['faceid', 'plan', *sys.argv[1:]]\n"
        "import flows.cli\n"
        "try: flows.cli.main()\n"
        "finally: print(sorted({'torch', 'diffusers', 'transformers', 'prefect', 'ray'} & set(sys.modules)))\n"
    )
    env = {"PATH": "/usr/bin:/bin", "FACEID_IDENTITY_SECRET_FILE": str(secret), "HOME": str(tmp_path)}
    root = str(Path(__file__).parents[2])
    ended = subprocess.run(
        [sys.executable, "-c", code, run.identities, "--store", str(tmp_path / "new")],
        capture_output=True, text=True, cwd=root, env=env | {"PYTHONPATH": root},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip().endswith("[]")
    assert f"detect: {PEOPLE + 16} because: first time" in ended.stdout
    assert not secret.exists() and not (tmp_path / "new").exists()


def test_the_command_says_cost_and_changes_nothing(run):
    before = snapshot(run.store)
    arguments = ["plan", run.identities, "--store", run.store, "--set", "score.named_people=1"]
    told_all = CliRunner().invoke(cli, [*arguments, "--set", "generate.steps=7", "--cost-per-hour", "3600"])
    assert told_all.exit_code == 0, told_all.output
    assert f"{PEOPLE} identities, {COMMON} for floor and ceiling" in told_all.output
    found = CliRunner().invoke(
        cli, [*arguments, "--set", "generate.steps=7", "--cost-per-hour", "3600", "--format", "json"]
    )
    record = json.loads(found.output)
    assert record["cost"] == pytest.approx(record["worker_seconds"])
    assert f"cost about {record['cost']:.2f}" in told_all.output
    assert f"of {record['estimated_from_runs'][0]}" in told_all.output
    assert snapshot(run.store) == before


def test_a_dry_run_finds_what_the_run_itself_looks_up_and_writes_nothing(run, tmp_path):
    shutil.copytree(Path(run.store), tmp_path / "store")
    changes = {"store": str(tmp_path / "store"), "identities": str(write_manifest(tmp_path / "m", PEOPLE + 1))}
    changes |= {"personalize.seed": 5, "run.force": True, "run.from_stage": "generate"}
    own = changed(run, changes, source="test")
    before = snapshot(tmp_path / "store")
    planned = {row.stage: [miss.work for miss in row.misses] for row in plan_run(own).stages}
    assert snapshot(tmp_path / "store") == before
    opened = open_run(own, LogReporter())
    try:
        assert lookup_stage(opened, "detect") == planned["detect"] and len(planned["detect"]) == 1
        (new,) = (work.subject for work in planned["detect"])
        for stage in STAGES[1:]:
            assert lookup_stage(opened, stage, skip={new}) == planned[stage]
            if planned[stage]:
                break
        assert stage == "personalize" and len(planned[stage]) == PEOPLE
    finally:
        opened.release()


def test_run_with_dry_run_says_what_plan_says_and_changes_nothing(run):
    before = snapshot(run.store)
    arguments = ["--store", run.store, "--set", "score.named_people=1", "--set", "generate.steps=7"]
    dry = CliRunner().invoke(cli, ["run", "--dry-run", "--identities", run.identities, *arguments])
    assert dry.exit_code == 0, dry.output
    assert dry.output == CliRunner().invoke(cli, ["plan", run.identities, *arguments]).output
    assert snapshot(run.store) == before


def test_explain_compares_the_newest_two_or_with_what_would_be_computed(run, tmp_path):
    shutil.copytree(Path(run.store), tmp_path / "store")
    own = changed(run, {"store": str(tmp_path / "store")}, source="test")
    found = explain(changed(own, {"personalize.seed": 3}, source="test"), "person-000001", "personalize")
    assert [str(leaf) for leaf in found.leaves] == ["parameters.seed: 0 -> 3"]
    assert not explain(own, "person-000001", "personalize").leaves

    pretend_night(changed(own, {"personalize.seed": 4}, source="test"))
    again = explain(own, "person-000001", "personalize")
    assert [str(leaf) for leaf in again.leaves] == ["parameters.seed: 0 -> 4"]
    assert "newest" in again.after
    pictures = explain(own, "person-000001", "score-identity")
    assert [leaf.path for leaf in pictures.leaves] == ["inputs.pictures"]
    floor = explain(own, "person-000001", "floor_score-identity")
    assert not floor.leaves  # the class word's pictures did not change


def test_explain_names_the_stage_that_comes_first(run):
    other = changed(run, {"faces.mask_region": "head"}, source="test")
    found = explain(other, "person-000002", "generate", planned=True)
    assert "waits for mask" in found.before
    assert [leaf.path for leaf in found.leaves] == ["parameters.region"]


def test_the_command_explains(run):
    usual = ["explain", "person-000001", "personalize", "--planned", "--store", run.store]
    people = ["--identities", run.identities, "--set", "score.named_people=1"]
    told = CliRunner().invoke(cli, [*usual, *people, "--set", "personalize.seed=3"])
    assert told.exit_code == 0 and "parameters.seed: 0 -> 3" in told.output, told.output


def test_explain_refuses_what_it_cannot_compare(run):
    with pytest.raises(ConfigurationError, match=r"no stage 'score'; name one of .*score-identity"):
        explain(run, "person-000001", "score")
    with pytest.raises(ConfigurationError, match="no result of stage mask of 'zoe'"):
        explain(run, "zoe", "mask")


def test_a_step_of_a_larger_picture_counts_by_its_pixels():
    of_own, wide, large = (
        pending_work("generate", "generate", {"steps": 10, **size}, 4, 64).size
        for size in ({}, {"size": [64, 96]}, {"size": [128, 128]})
    )
    assert (of_own, wide, large) == (40.0, 60.0, 160.0)
    assert pending_work("score", "score-identity", {"size": [128, 128]}, 4, 64).size == 4.0
