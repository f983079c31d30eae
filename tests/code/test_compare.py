"""faceid compare: paired over people with one photo and over the same prompts, with a verdict that can stop a rollout."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner
from scipy.stats import nct, t, ttest_1samp

from data_contracts import contract
from faceid_core.config.execution import GateConfig
from faceid_core.errors import ConfigurationError
from faceid_core.publish.earlier_runs import find_run
from faceid_core.publish.gate import _moved, compare_runs
from faceid_core.store import IdentitySecret, initialize, open_store
from faceid_core.tables import Tables
from faceid_core.tables.promoted import promote
from flows.cli import cli
from tests.benchmarks.table_nights import cached_night, night, run_name

PEOPLE, PROMPTS = 26, 4
FIRST, LATER = run_name(0), run_name(1)


def with_likeness(made: dict, likeness: float, *, spread: float = 0.0) -> dict:
    """A night in which every image has a face and, per person, this likeness; the floor is 0.1."""
    rows = made["image_metrics"]
    is_identity = pc.equal(rows["metric"], "identity")
    own = {row["generate_key"] for row in made["identity_outcomes"].to_pylist()}
    place = {key: number for number, key in enumerate(sorted(key for key in own if key))}
    values, reasons, details = [], [], []
    for key, hit, value, reason, detail, seed in zip(
        *(rows[name].to_pylist() for name in ("generate_key",)), is_identity.to_pylist(),
        *(rows[name].to_pylist() for name in ("value", "null_reason", "detail", "seed")), strict=True,
    ):  # fmt: skip
        if hit:
            bend = spread * np.sin(3.0 * place[key]) if key in place else 0.0
            value, reason, detail = (likeness + bend + 0.01 * seed if key in place else 0.1), None, None
        values.append(value), reasons.append(reason), details.append(detail)
    for name, column in (("value", values), ("null_reason", reasons), ("detail", details)):
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(name), pa.array(column, rows.schema.field(name).type))
    summary = made["identity_summary"].to_pylist()
    for row in summary:
        row["weak"] = False if row["subject_kind"] == "person" else None
        row["identity_similarity"] = 0.9 if row["subject_kind"] == "named" else likeness
    return made | {"image_metrics": rows, "identity_summary": contract("identity_summary").table(summary)}


def published(folder, likeness: float, *, spread: float = 0.05, people: int = PEOPLE) -> Tables:
    store = open_store(str(folder))
    initialize(store, IdentitySecret(b"5" * 32))
    tables = Tables(store)
    for number, value in enumerate((0.5, likeness)):
        made = night(number * 2, people, prompts=PROMPTS, metrics=("identity", "concepts"))
        if number:  # the night after it: the same photos, but for every fifth person
            made = night(1, people, prompts=PROMPTS, metrics=("identity", "concepts"))
            photos = made["identity_outcomes"].to_pylist()
            for each, row in enumerate(photos):
                row["photo_digest"] = "f" * 64 if each % 5 == 0 else row["photo_digest"]
            made["identity_outcomes"] = contract("identity_outcomes").table(photos)
        tables.publish(run_name(number), with_likeness(made, value, spread=spread * number))
    return tables


def test_a_worse_run_fails_with_figures_that_scipy_agrees_with(tmp_path, monkeypatch):
    tables = published(tmp_path / "store", 0.4)
    found = compare_runs(tables, FIRST, LATER, GateConfig())
    same_photo = (
        PEOPLE - 1 - len(range(0, PEOPLE - 1, 5))
    )  # one is rejected, of every fifth the photo is another
    identity = found.differences[0]
    assert (found.people, identity.people) == (same_photo, same_photo) and not found.too_few
    keys = {row["identity_key"]: row["generate_key"] for row in tables.read("identity_outcomes").to_pylist()
            if row["run_id"] == LATER and row["generate_key"]}  # fmt: skip
    place = {key: number for number, key in enumerate(sorted(keys.values()))}
    bends = [0.05 * np.sin(3.0 * place[keys[f"{each:032x}"]]) for each in range(PEOPLE - 1) if each % 5]
    values = (np.array(bends) - 0.1) / (0.9 - 0.1)  # floor 0.1, and four named people of 0.9
    assert identity.mean == pytest.approx(values.mean(), abs=1e-9)
    error = values.std(ddof=1) / np.sqrt(len(values))
    low, high = t.interval(1 - 0.05 / 3, len(values) - 1, values.mean(), error)
    assert (identity.low, identity.high) == pytest.approx((low, high), abs=1e-9)
    assert identity.fails and found.fails and not found.differences[2].fails
    assert ttest_1samp(values, 0).pvalue < 0.05 / 3
    # The difference that is called detectable is found with a probability of 0.8, by the noncentral t distribution.
    critical, sized = t.isf(0.05 / 3 / 2, len(values) - 1), identity.detectable / error
    missed = nct.cdf(critical, len(values) - 1, sized) - nct.cdf(-critical, len(values) - 1, sized)
    assert 1 - missed == pytest.approx(0.8, abs=1e-6)
    monkeypatch.setenv("FACEID_IDENTITY_SECRET", (b"5" * 32).hex())
    ended = CliRunner().invoke(cli, ["compare", "--store", str(tmp_path / "store"), "--json"])
    assert ended.exit_code == 4, ended.output
    told = json.loads(ended.output)
    assert told["fails"] and told["differences"][0]["mean"] == pytest.approx(identity.mean)
    loose = ["compare", FIRST, LATER, "--store", str(tmp_path / "store"), "--set", "gate.identity=-0.5"]
    loose += ["--set", "gate.concepts=-1.0"]
    assert CliRunner().invoke(cli, loose).exit_code == 0


def test_two_people_are_too_few_to_say_what_could_be_detected(tmp_path, monkeypatch):
    tables = published(tmp_path / "two", 0.4, people=4)
    identity = compare_runs(tables, FIRST, LATER, GateConfig()).differences[0]
    assert identity.people == 2 and identity.mean is not None and identity.detectable is None
    monkeypatch.setenv("FACEID_IDENTITY_SECRET", (b"5" * 32).hex())
    ended = CliRunner().invoke(cli, ["compare", "--store", str(tmp_path / "two")])
    assert ended.exit_code == 0 and "2 people in both runs are too few to judge" in ended.output


def test_an_equal_run_passes_and_few_people_are_not_judged(tmp_path):
    same = compare_runs(
        published(tmp_path / "same", 0.5, spread=0.0), FIRST, LATER, GateConfig(concepts=-1.0)
    )
    assert same.differences[0].mean == pytest.approx(0.0, abs=1e-9) and not same.fails and not same.worse
    few = compare_runs(published(tmp_path / "few", 0.2, people=10), FIRST, LATER, GateConfig(concepts=-1.0))
    assert few.too_few and not few.fails and few.differences[0].mean < -0.2


def test_runs_with_other_prompts_are_not_compared_by_figures_of_other_images(tmp_path, monkeypatch):
    """The second grid lacks the hard prompts: the same images, and a higher ceiling."""
    store = open_store(str(tmp_path / "store"))
    initialize(store, IdentitySecret(b"5" * 32))
    tables = Tables(store)
    for number, prompts in enumerate((PROMPTS + 2, PROMPTS)):
        made = with_likeness(night(number, PEOPLE, prompts=prompts, metrics=("identity", "concepts")), 0.5)
        summary = made["identity_summary"].to_pylist()
        for row in summary:
            if row["subject_kind"] == "named":
                row["identity_similarity"] = 0.7 + 0.2 * number
        images = made["images"]
        texts = [f"a photo of V*, {name}" for name in images["prompt_id"].to_pylist()]
        place = images.schema.get_field_index("prompt")
        made["images"] = images.set_column(place, images.schema.field("prompt"), [texts])
        made["identity_summary"] = contract("identity_summary").table(summary)
        tables.publish(run_name(number), made)
    found = compare_runs(tables, FIRST, LATER, GateConfig(concepts=-1.0))
    identity, concepts, weak = found.differences
    assert found.other_grid and not found.too_few and not found.fails and not found.worse
    assert (identity.people, identity.mean, weak.people) == (0, None, 0) and concepts.people == found.people > 0
    assert not compare_runs(tables, FIRST, FIRST, GateConfig()).other_grid
    monkeypatch.setenv("FACEID_IDENTITY_SECRET", (b"5" * 32).hex())
    told = CliRunner().invoke(cli, ["compare", FIRST, LATER, "--store", str(tmp_path / "store")]).output
    assert "other prompts or seeds, so identity and weak are not compared" in told


def test_a_date_beside_another_run_is_that_runs_name_and_complete_first(tmp_path):
    tables = published(tmp_path / "store", 0.5)
    rows = tables.read("runs").to_pylist()
    day = rows[0]["run_date"].isoformat()
    later = {**rows[0], "run_id": "later-of-another", "name": "evaluate-only"}
    later["started_at"] += dt.timedelta(hours=9)
    subset = {**rows[0], "run_id": "later-of-some", "subset": True}
    subset["started_at"] += dt.timedelta(hours=10)
    monday = SimpleNamespace(read=lambda _: contract("runs").table([*rows, later, subset]), promoted=dict)
    assert find_run(monday, day, beside=rows[-1]["run_id"]) == rows[0]["run_id"]
    assert find_run(monday, day) == "later-of-another", "the last complete one"


def partly_cached_night(made: dict, newer: dict, recomputed: range) -> dict:
    """The night after `made`, which rests on its results but for some people, whose results are those of `newer`."""
    mine = {f"{each:032x}" for each in recomputed}
    found = cached_night(made, 1)
    for name in ("identity_outcomes", "identity_summary"):
        rows = [row for row in found[name].to_pylist() if row["identity_key"] not in mine]
        rows += [row for row in newer[name].to_pylist() if row["identity_key"] in mine]
        found[name] = contract(name).table(rows)
    outcomes = [row for row in newer["identity_outcomes"].to_pylist() if row["identity_key"] in mine]
    scores = {each["stage_key"] for row in outcomes for each in row["stage_results"]}
    wanted = {
        "images": ("generate_key", {row["generate_key"] for row in outcomes}),
        "image_metrics": ("score_key", scores),
    }
    for name, (column, values) in wanted.items():
        is_wanted = pc.is_in(newer[name][column], value_set=pa.array(sorted(values), pa.string()))
        found[name] = pa.concat_tables([made[name], newer[name].filter(is_wanted)])
    return found


def published_again(folder, recomputed: range) -> Tables:
    """A night, and the one after it, in which these people were computed again."""
    store = open_store(str(folder))
    initialize(store, IdentitySecret(b"5" * 32))
    tables = Tables(store)
    made, newer = (
        with_likeness(night(number, PEOPLE, prompts=PROMPTS, metrics=("identity", "concepts")), value)
        for number, value in enumerate((0.5, 0.7))
    )
    for each in (made, newer):
        one_photo = [row | {"photo_digest": "a" * 64} for row in each["identity_outcomes"].to_pylist()]
        each["identity_outcomes"] = contract("identity_outcomes").table(one_photo)
    tables.publish(FIRST, made)
    tables.publish(LATER, partly_cached_night(made, newer, recomputed))
    return tables


def test_people_whose_results_are_the_same_count_as_unchanged_beside_those_that_were_computed_again(tmp_path):
    found = compare_runs(published_again(tmp_path, range(4, 9)), FIRST, LATER, GateConfig(concepts=-1.0))
    identity, concepts, weak = found.differences
    assert found.people == identity.people == concepts.people == weak.people == PEOPLE - 1
    values = np.zeros(PEOPLE - 1)
    values[:5] = 0.2 / (0.9 - 0.1)  # floor 0.1, ceiling 0.9
    assert identity.mean == pytest.approx(values.mean(), abs=1e-9)
    error = values.std(ddof=1) / np.sqrt(len(values))
    interval = t.interval(1 - 0.05 / 3, len(values) - 1, values.mean(), error)
    assert (identity.low, identity.high) == pytest.approx(interval, abs=1e-9)
    assert concepts.mean != 0 and (weak.mean, weak.low, weak.high) == (0, 0, 0)


def test_a_persons_p_is_corrected_for_those_whose_scores_differ():
    def person(number: int, spread: float) -> dict:
        return {
            "identity_id": f"p{number}", "identity_key": str(number), "identity": 0.2, "prompts": 10, "spread": spread,
        }  # fmt: skip

    alone, of_three = (
        _moved([*(person(n, 0.1) for n in range(count)), *(person(n, 0.0) for n in range(3, 9))], 1)
        for count in (1, 3)
    )
    assert [each.compared for each in alone] == [1] and {each.compared for each in of_three} == {3}
    assert max(each.p for each in of_three) == pytest.approx(3 * alone[0].p)


def test_a_ceiling_that_moved_changes_people_whose_own_results_are_the_same(tmp_path):
    tables = published_again(tmp_path, range(0))
    rows = [
        row | ({"identity_similarity": 0.8} if row["subject_kind"] == "named" else {})
        for row in tables.read("identity_summary").to_pylist() if row["run_id"] == LATER
    ]  # fmt: skip
    (run,) = (row for row in tables.read("runs").to_pylist() if row["run_id"] == LATER)
    summary = {
        "identity_summary": contract("identity_summary").table(rows),
        "runs": contract("runs").table([run]),
    }
    tables.publish(LATER, summary)
    identity = compare_runs(tables, FIRST, LATER, GateConfig()).differences[0]
    likeness = 0.5 + 0.005  # the mean over two seeds
    assert identity.mean == pytest.approx((likeness - 0.1) * (1 / 0.7 - 1 / 0.8), abs=1e-9)


def test_runs_with_the_same_results_are_compared_without_their_images_and_without_scipy(tmp_path):
    published_again(tmp_path, range(0))
    for name in ("images", "image_metrics"):
        for file in (tmp_path / f"tables/{name}").rglob("*.parquet"):
            file.unlink()
    code = (
        "import sys; from faceid_core.config.execution import GateConfig; from faceid_core.tables import Tables; "
        "from faceid_core.publish.gate import compare_runs; from faceid_core.store import open_store; "
        f"found = compare_runs(Tables(open_store({str(tmp_path)!r})), {FIRST!r}, {LATER!r}, GateConfig()); "
        "print(found.people, [each.mean for each in found.differences], 'scipy' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert printed.stdout.strip() == f"{PEOPLE - 1} [0.0, 0.0, 0.0] False"


def test_runs_are_found_by_words_names_and_dates(folder_store):
    tables = Tables(folder_store)
    for number in range(3):
        made = night(number, 2, prompts=1)
        row = made["runs"].to_pylist()[0] | {"exit_status": 2 if number == 1 else 0}
        tables.publish(run_name(number), made | {"runs": contract("runs").table([row])})
    assert find_run(tables, "latest") == run_name(2) == find_run(tables, "nightly")
    assert find_run(tables, "previous", beside=run_name(2)) == run_name(0), "the one between is not complete"
    date = dt.date(2026, 1, 2).isoformat()
    assert find_run(tables, date) == find_run(tables, run_name(1)) == run_name(1)
    assert promote(folder_store, "nightly", run_name(1), in_place_of=None)
    assert find_run(tables, "current") == run_name(1)
    for wanted in ("weekly", "2020-01-01"):
        with pytest.raises(ConfigurationError, match=f"no run '{wanted}'.*{run_name(2)}"):
            find_run(tables, wanted)
    with pytest.raises(ConfigurationError, match="previous"):
        find_run(tables, "previous", beside=run_name(0))
