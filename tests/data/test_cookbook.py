"""Every question of docs/cookbook.md, computed again with pandas from the plain tables."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from data_contracts import NAMES
from faceid_core.evaluate.intervals import over_people
from faceid_core.store import open_store
from faceid_core.tables import Tables
from faceid_core.tables.views import FIGURES
from tests.benchmarks.cookbook import questions
from tests.benchmarks.table_nights import METRICS, cached_night, night, run_name

OLD, NEW = run_name(1), run_name(2)  # the night before them is in the tables, too


class Frames:
    """The tables as pandas reads them, and what the views of the same names are."""

    def __init__(self, tables: Tables):
        for name in NAMES:
            setattr(self, name, tables.read(name).to_pandas())
        rows = [
            dict(result, run_id=row.run_id, identity_key=row.identity_key, identity_id=row.identity_id)
            for row in self.identity_outcomes.itertuples()
            for result in (row.stage_results if row.stage_results is not None else ())
        ]
        self.results = pd.DataFrame(rows)
        self.scores = self._scores("score-")
        self.floors = self._scores("floor_score-")
        self.people = self.identity_summary[self.identity_summary.subject_kind == "person"]

    def _scores(self, prefix: str) -> pd.DataFrame:
        own = self.results[self.results.stage.str.startswith(prefix)]
        return own.merge(
            self.image_metrics, left_on="stage_key", right_on="score_key", suffixes=("", "_image")
        )

    def of(self, table: pd.DataFrame, run: str = NEW) -> pd.DataFrame:
        return table[table.run_id == run]


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Tables:
    made = Tables(open_store(str(tmp_path_factory.mktemp("cookbook") / "store")))
    for number in range(3):
        made.publish(run_name(number), night(number, 24, prompts=6, metrics=METRICS))
    return made


@pytest.fixture(scope="module")
def frames(tables) -> Frames:
    return Frames(tables)


def got_worse(f: Frames) -> list:
    old, new = (f.of(f.people, run).set_index("identity_key") for run in (OLD, NEW))
    photos = {
        run: f.of(f.identity_outcomes, run).set_index("identity_key").photo_digest for run in (OLD, NEW)
    }
    change = (new.normalized_identity - old.normalized_identity).dropna()
    rows = [
        (new.identity_id[key], value, photos[NEW][key] != photos[OLD][key]) for key, value in change.items()
    ]
    return sorted(rows, key=lambda row: (row[1], row[0]))[:20]


def failing_prompts(f: Frames) -> list:
    rows = f.of(f.scores)
    rows = rows[rows.metric.str.startswith("concepts:") & (rows.value == 0)]
    found = rows.groupby(["identity_id", "prompt_id", "metric"]).agg(
        missed=("value", "size"), drawn=("detail", lambda seen: "; ".join(sorted(set(seen))))
    )
    return sorted(found.reset_index().itertuples(index=False, name=None), key=lambda r: (-r[3], *r[:3]))[:20]


def new_setting(f: Frames) -> list:
    photos = {
        run: f.of(f.identity_outcomes, run).set_index("identity_key").photo_digest for run in (OLD, NEW)
    }
    old, new = (f.of(f.people, run).set_index("identity_key") for run in (OLD, NEW))
    same = [key for key in old.index.intersection(new.index) if photos[OLD][key] == photos[NEW][key]]
    assert 0 < len(same) < len(new)
    rows = []
    for figure in sorted(FIGURES):
        differences = (new[figure] - old[figure]).loc[same].dropna()
        if len(differences):
            ends = over_people(list(differences))
            means = old[figure].loc[differences.index].mean(), new[figure].loc[differences.index].mean()
            rows.append((figure, len(differences), *means, *ends))
    return rows


def cost(f: Frames) -> list:
    rows = f.of(f.results)
    whole, here = (
        rows.groupby("identity_id").seconds.sum(),
        rows[rows.computed].groupby("identity_id").seconds.sum(),
    )
    found = [(who, value, here.get(who), value / 3600 * 1.2) for who, value in whole.items()]
    return sorted(found, key=lambda row: (-row[1], row[0]))[:20]


def attention(f: Frames) -> list:
    rows = f.of(f.scores)
    found = rows[rows.metric == "attention"].groupby("prompt_id").value.agg(["mean", "count"])
    return sorted(found.itertuples(name=None), key=lambda row: (-row[1], row[0]))[:20]


def rejections(f: Frames) -> list:
    rows = f.identity_outcomes[f.identity_outcomes.outcome == "rejected"]
    rows = rows.assign(photo=rows.photo_digest.fillna(rows.identity_key))
    first = rows.groupby(["photo", "reason"]).run_date.min().reset_index()
    days = pd.to_datetime(first.run_date)
    first["week"] = (days - pd.to_timedelta(days.dt.weekday, unit="D")).dt.date
    found = first.groupby(["week", "reason"]).size()
    return sorted(((*key, count) for key, count in found.items()), key=lambda row: (row[0], -row[2], row[1]))


def outliers(f: Frames) -> list:
    rows = f.of(f.scores)
    rows = rows[rows.metric == "identity"].copy()
    by = rows.groupby("identity_key").value
    rows["mean"], rows["deviation"] = by.transform("mean"), by.transform("std")
    rows = rows[rows.value < rows["mean"] - 2 * rows.deviation]
    found = rows[["identity_id", "prompt_id", "seed", "value", "mean"]].itertuples(index=False, name=None)
    return sorted(found, key=lambda row: (row[3] - row[4], *row[:3]))[:20]


def normalized_identity(f: Frames) -> list:
    named = f.identity_summary[f.identity_summary.subject_kind == "named"]
    ceiling = f.of(named).identity_similarity.mean()
    rows = []
    for who, own in f.of(f.scores)[lambda t: t.metric == "identity"].groupby("identity_id"):
        floor = f.of(f.floors)[
            lambda t, who=who: (t.metric == "identity") & (t.identity_id == who)
        ].value.mean()
        similarity = own.value.fillna(floor).mean()
        rows.append((who, similarity, floor, ceiling, (similarity - floor) / (ceiling - floor)))
    return sorted(rows, key=lambda row: (row[4], row[0]))[:20]


def categories(f: Frames) -> list:
    columns = ["scene_accuracy", "attribute_accuracy", "action_accuracy", "clothing_accuracy"]
    runs = f.runs[(f.runs.exit_status == 0) & (f.runs.not_reached == 0) & (f.runs.subset != True)]  # noqa: E712 null, too
    by = f.people.merge(runs[["run_id", "name"]], on="run_id").groupby(["name", "run_date", "run_id"])
    found = by[columns].mean().assign(people=by.size())
    return [(*key, *row) for key, row in zip(found.index, found.itertuples(index=False, name=None), strict=True)]


def other_code(f: Frames) -> list:
    rows = []
    for row in f.runs.sort_values("started_at").itertuples():
        first = not rows  # of which nothing is known before
        rows.append((row.run_id, row.code_revision, first, first, first))
    return rows


def slowest_stage(f: Frames) -> list:
    rows = f.of(f.results)
    found = rows[rows.computed].groupby("stage").seconds.agg(["size", "sum", "max"])
    return sorted(found.itertuples(name=None), key=lambda row: (-row[2], row[0]))


def computed_again(f: Frames) -> list:
    photos = f.identity_outcomes.set_index(["run_id", "identity_key"]).photo_digest
    old = f.of(f.results, OLD).set_index(["identity_key", "stage"])
    counts: dict = {}
    for row in f.of(f.results).itertuples():
        if not row.computed:
            why = "cached"
        elif (row.identity_key, row.stage) not in old.index:
            why = "new identity or stage"
        elif photos[NEW, row.identity_key] != photos[OLD, row.identity_key]:
            why = "other photo"
        else:
            why = "other settings, weights or inputs"
        counts[row.stage, why] = counts.get((row.stage, why), 0) + 1
    return sorted((*key, count) for key, count in counts.items())


ANSWERS = {
    function.__name__.replace("_", "-"): function
    for function in (
        got_worse, failing_prompts, new_setting, cost, attention, rejections, outliers, normalized_identity,
        categories, other_code, slowest_stage, computed_again,
    )
}  # fmt: skip


def test_every_question_of_the_page_has_an_answer_here():
    assert list(questions()) == list(ANSWERS)


@pytest.mark.parametrize("name", ANSWERS)
def test_sql_and_pandas_give_the_same_answer(name, tables, frames):
    sql = [tuple(row.values()) for row in tables.query(questions()[name]).to_pylist()]
    wanted = [tuple(row) for row in ANSWERS[name](frames)]
    assert wanted and len(sql) == len(wanted)
    for found, expected in zip(sql, wanted, strict=True):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert _same(one, other), (found, expected)


def test_a_cached_night_had_no_other_scorers(tmp_path):
    """Its rows of images have the date of the night that measured them."""
    tables = Tables(open_store(str(tmp_path / "store")))
    first = night(0, 4, prompts=2, metrics=METRICS)
    tables.publish(run_name(0), first)
    tables.publish(run_name(1), cached_night(first, 1))
    rows = tables.query(questions()["other-code"]).to_pylist()
    assert [row["other_scorers"] for row in rows] == [True, False], "of the first nothing is known before"


def _same(one, other) -> bool:
    if isinstance(one, float) and other is not None:
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    if other is None or (isinstance(other, float) and np.isnan(other)):
        return one is None
    return one == other
