"""faceid run in one process, and what its store then answers; one small run serves all tests here."""

from __future__ import annotations

import csv
import datetime as dt
import json
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from click.testing import CliRunner

from faceid_core import photos
from faceid_core.errors import ConfigurationError
from faceid_core.miniature.people import person_from_seed
from faceid_core.miniature.renderer import render
from faceid_core.outcomes import WEAK
from faceid_core.personalize.tokens import IdentityTokens
from flows.cli import cli
from tests.end_to_end.conftest import GRID, shot

STAGES = ("detect", "parse", "mask", "personalize", "generate", "score")
SUMMARY = "select subject_kind, concept_accuracy, identity_id, identity_gain_low, weak from identity_summary"


def faceid(*arguments):
    """Run one command; whatever is no exit is an error of the test."""
    return CliRunner().invoke(cli, list(map(str, arguments)), env={"COLUMNS": "200"}, catch_exceptions=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two people personalized in few steps; the store's folder has a blank in its name."""
    folder = tmp_path_factory.mktemp("small run")
    people = []
    for name, seed in (("ann", 8101), ("bob", 8102)):
        picture = render(person_from_seed(seed), shot(), size=128).image
        (folder / f"{name}.png").write_bytes(photos.encode_png(picture))
        people.append((name, f"{name}.png", "person"))
    with (folder / "identities.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("identity_id", "photo", "class_word"), *people])
    (folder / "grid.yaml").write_text(GRID)
    (folder / "night.yaml").write_text(
        "name: small\n"
        f"store: {folder / 'store'}\n"
        f"identities: {folder / 'identities.csv'}\n"
        "personalize: {preset: semantic-fidelity, slots: 2, method: {steps: 3, samples_per_step: 5}}\n"
        f"generate: {{grid: {folder / 'grid.yaml'}, seeds: 2, steps: 2, batch: 6}}\n"
        "score: {named_people: 1}\n"
        "execution: {executor: inline, threads_per_worker: 1}\n"
    )
    run = faceid("run", "--config", folder / "night.yaml")
    return SimpleNamespace(folder=folder, store=folder / "store", config=folder / "night.yaml", run=run)


def test_a_run_ends_with_a_table_and_where_things_are(run):
    told = run.run.output
    assert run.run.exit_code == 0, told
    for words in ("ann", "bob", "class word (floor)", "named people (ceiling)", "2 done"):
        assert words in told
    report = re.search(r"^report +(.+)$", told, re.MULTILINE).group(1)
    assert report.startswith(f"{run.store}/runs/") and Path(report).read_bytes()[:15] == b"<!doctype html>"


def test_a_run_says_what_it_comes_to(run):
    figures = faceid("query", SUMMARY, "--store", run.store, "--format", "json")
    rows = json.loads(figures.output)
    people = [row for row in rows if row["subject_kind"] == "person"]
    (floor,) = (row["concept_accuracy"] for row in rows if row["subject_kind"] == "class_word")
    gained = sum(row["weak"] is False for row in people)
    assert gained <= sum((row["identity_gain_low"] or 0) > 0 for row in people), (
        "weak asks for more than a gain"
    )
    assert f"{gained} of 2 surely above the class word" in run.run.output
    share = sum(row["concept_accuracy"] for row in people) / 2 / floor
    assert f"concept accuracy {share:.0%} of the class word's" in run.run.output


def test_a_run_says_who_is_weak(run):
    asked = (
        "select o.identity_id, o.weak, o.same_photo, o.message, s.weak as figure from identity_outcomes o "
    )
    asked += "join identity_summary s using (run_id, identity_key)"
    rows = json.loads(faceid("query", asked, "--store", run.store, "--format", "json").output)
    weak = [row["identity_id"] for row in rows if row["weak"]]
    assert weak, "three steps teach hardly anybody; if they do now, take fewer"
    assert f"weak: {', '.join(sorted(weak))}: {WEAK}" in run.run.output
    assert all(row["weak"] is row["figure"] and row["same_photo"] == 0 for row in rows)
    assert all(row["message"] == (WEAK if row["weak"] else None) for row in rows)
    status = faceid("status", "--store", run.store).output
    assert ("try another" in status) == bool(weak)
    index = next((run.store / "runs").glob("*/index.html")).read_text()
    assert index.count('<span class="badge weak">weak</span>') == len(weak)
    pages = [page.read_text() for page in (run.store / "identities").glob("*/reports/*.html")]
    assert sum("badge weak" in page and "try another photo" in page for page in pages) == len(weak)


def test_a_lost_floor_and_ceiling_are_told(run, tmp_path):
    shutil.copytree(run.store, tmp_path / "store")
    common = tmp_path / "store" / "common"
    for manifest in common.glob("stages/score*/*.json"):
        record = json.loads(manifest.read_bytes())
        del record["inline"]
        manifest.write_bytes(json.dumps(record).encode())
        for output in record["content"]["outputs"]:
            (common / "blobs" / output["digest"]).unlink(missing_ok=True)
    told = faceid("run", "--config", run.config, "--store", tmp_path / "store")
    assert told.exit_code == 0
    assert re.search(r"^class-person: .*run again", told.output, re.MULTILINE), told.output
    assert re.search(r"^named-[a-z-]+: .*run again", told.output, re.MULTILINE), told.output
    assert "normalized identity" not in told.output and "of the class word's" not in told.output


def test_the_commands_that_a_run_prints_work(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = dict(re.findall(r"^(tables|tokens) +faceid (.+)$", run.run.output, re.MULTILINE))
    summary = faceid(*shlex.split(printed["tables"]), "--format", "json")
    assert summary.exit_code == 0 and '"identity_id":"ann"' in summary.output.replace(" ", "")
    written = faceid(*shlex.split(printed["tokens"].replace("ID", "ann")))
    assert written.exit_code == 0, written.output
    tokens = IdentityTokens.from_bytes((tmp_path / "ann.safetensors").read_bytes())
    assert tokens.class_word == "person"


def test_tokens_are_written_into_a_new_folder_and_a_place_that_is_none_is_refused(run, tmp_path):
    target = tmp_path / "new" / "ann.safetensors"
    told = faceid("tokens", "ann", "--store", run.store, "--out", target)
    assert told.exit_code == 0 and target.is_file(), told.output
    with pytest.raises(ConfigurationError, match=r"it is a folder"):
        faceid("tokens", "ann", "--store", run.store, "--out", tmp_path)
    with pytest.raises(ConfigurationError, match=r"choose another --out"):
        faceid("tokens", "ann", "--store", run.store, "--out", target / "below" / "x.safetensors")


def test_tokens_of_a_stranger_say_what_to_do(run):
    with pytest.raises(ConfigurationError, match=r"no tokens of 'zoe'.*--only zoe"):
        faceid("tokens", "zoe", "--store", run.store)


def test_a_dry_run_after_a_run_has_nothing_to_compute(run):
    before = sorted(path.name for path in (run.store / "runs").iterdir())
    told = faceid("run", "--dry-run", "--config", run.config)
    assert told.exit_code == 0 and "2 identities, 2 for floor and ceiling" in told.output
    assert "everything is cached: nothing would be computed" in told.output
    assert sorted(path.name for path in (run.store / "runs").iterdir()) == before


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything in a store but the lease, which every command that may write takes."""
    files = (path for path in folder.rglob("*") if path.is_file() and "leases" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_missed_run_is_made_up_for_once_under_its_own_date(run, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(run.store, store)
    missed = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=3)
    night = ("run", "--config", run.config, "--store", store, "--run-date", missed)
    first = faceid(*night)
    assert first.exit_code == 0 and "2 cached" in first.output, first.output
    rows = json.loads(
        faceid("query", "select run_id, cast(run_date as varchar) as day from runs order by started_at", "--store",
               store, "--format", "json").output
    )  # fmt: skip
    assert rows[-1]["day"] == str(missed) and rows[-1]["run_id"].startswith(f"{missed:%Y%m%d}-small-")

    before = files_of(store)
    again = faceid(*night)
    assert again.exit_code == 0 and f"run {rows[-1]['run_id']} of {missed} is complete" in again.output
    assert files_of(store) == before, "the second call changes nothing"
    assert "nothing would be done" in faceid(*night, "--dry-run").output

    # What was not asked for before is run: other people, another configuration, and what is forced.
    for more in (("--only", "ann"), ("--set", "score.metrics=[identity]")):
        assert "is complete, with" not in faceid(*night, *more).output
    with pytest.raises(ConfigurationError, match=r"run\.date is .* which has not come: today is"):
        faceid(*night[:-1], missed + dt.timedelta(days=5))


def test_a_run_for_an_earlier_date_counts_the_consents_of_today(run, tmp_path):
    today = dt.datetime.now(dt.UTC).date()
    ended = today - dt.timedelta(days=2)
    (tmp_path / "identities.csv").write_text(
        f"identity_id,photo,class_word,consent_until\nann,{run.folder / 'ann.png'},person,{ended}\n"
        f"bob,{run.folder / 'bob.png'},person,{today}\n"
    )
    shutil.copytree(run.store, tmp_path / "store")
    told = faceid(
        "run", "--config", run.config, "--identities", tmp_path / "identities.csv", "--store", tmp_path / "store",
        "--run-date", ended - dt.timedelta(days=1),
    )  # fmt: skip
    assert "1 cached" in told.output and "1 refused" in told.output and "consent_expired" in told.output


def test_a_dry_run_on_a_new_store_counts_the_people_and_makes_nothing(run, tmp_path):
    told = faceid("run", "--dry-run", "--config", run.config, "--store", tmp_path / "new")
    assert told.exit_code == 0
    assert re.search(r"^ *detect +0 +3 ", told.output, re.MULTILINE), told.output
    assert re.search(r"^ *mask +0 +0 +2 ", told.output, re.MULTILINE), told.output
    assert not (tmp_path / "new").exists()


def test_a_sheet_leaves_out_who_was_erased_since(run, tmp_path):
    copied = tmp_path / "store"
    shutil.copytree(run.store, copied)
    status = json.loads(max(copied.glob("runs/*/status.json")).read_text())
    gone = next(each["identity_key"] for each in status["people"] if "generate" in each["stage_keys"])
    shutil.rmtree(copied / "identities" / gone)
    told = ["sheet", "--store", copied, "--out", tmp_path / "sheet.png"]
    with pytest.raises(ConfigurationError, match="is gone from the store"):
        faceid(*told)
    (copied / "tombstones").mkdir()
    (copied / "tombstones" / f"{gone}.json").write_text("{}")
    assert faceid(*told).exit_code == 0


def test_a_sheet_has_a_row_for_each_person(run, tmp_path):
    heights = []
    for people in (1, 2):
        target = tmp_path / f"{people}.png"
        told = faceid("sheet", "--store", run.store, "--people", people, "--out", target)
        assert told.exit_code == 0 and str(target) in told.output
        heights.append(photos.decode_png(target.read_bytes()).shape[0])
    assert heights[1] > heights[0] + 32
    one = tmp_path / "one.png"
    assert faceid("sheet", "--store", run.store, "--identity", "bob", "--out", one).exit_code == 0
    assert photos.decode_png(one.read_bytes()).shape[0] == heights[0]
    keys = tmp_path / "keys.png"
    assert faceid("sheet", "--store", run.store, "--people", 1, "--keys", "--out", keys).exit_code == 0
    assert keys.read_bytes() != (tmp_path / "1.png").read_bytes(), "its label is another"
    with pytest.raises(ConfigurationError, match="has no pictures of"):
        faceid("sheet", "--store", run.store, "--identity", "zoe", "--out", one)
    with pytest.raises(ConfigurationError, match="no picture of prompt 'moon'"):
        faceid("sheet", "--store", run.store, "--prompts", "moon", "--out", tmp_path / "none.png")


def test_tables_are_exported_as_parquet(run, tmp_path):
    told = faceid("tables", "export", tmp_path / "out", "--store", run.store)
    assert told.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "identity_outcomes.parquet",
        "identity_summary.parquet",
        "image_metrics.parquet",
        "images.parquet",
        "runs.parquet",
    ]
    outcomes = pd.read_parquet(tmp_path / "out" / "identity_outcomes.parquet")
    assert sorted(outcomes.identity_id) == ["ann", "bob"] and set(outcomes.outcome) == {"done"}
