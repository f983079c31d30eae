"""Whether a run has more rejected or weak people than usual, from published tables."""

from __future__ import annotations

from statistics import median

import pytest

from data_contracts import contract
from faceid_core.publish.usual import compare_with_usual
from faceid_core.tables import Tables
from tests.helpers.table_rows import run_row, summary_row


def publish_run(tables: Tables, day: int, *, rejected: int, weak: int, people: int = 10, **changes) -> str:
    run_id = f"202611{day:02d}-nightly-{day:08d}"
    done = people - rejected - changes.get("not_reached", 0)
    row = run_row(run_id, day, people) | {"name": "nightly", "rejected": rejected, "done": done} | changes
    finished = range(people - rejected)
    summary = [summary_row(run_id, day, number) | {"weak": number < weak} for number in finished]
    tables.publish(
        run_id,
        {
            "runs": contract("runs").table([row]),
            "identity_summary": contract("identity_summary").table(summary),
        },
    )
    return run_id


def test_a_share_is_unusual_above_the_median_of_ten_complete_runs_and_the_limit(folder_store):
    tables = Tables(folder_store)
    first = publish_run(tables, 1, rejected=9, weak=0)
    assert compare_with_usual(tables, first, 0.1) == [], "there was no run before"
    rejected = [1, 0, 2, 1, 1, 3, 0, 1, 2, 1]
    for day, count in enumerate(rejected, start=2):
        publish_run(tables, day, rejected=count, weak=1)
    # None of these is usual: not complete, of chosen people, of another name; the first is the eleventh before.
    publish_run(tables, 12, rejected=8, weak=1, exit_status=2)
    publish_run(tables, 13, rejected=8, weak=1, not_reached=1)
    publish_run(tables, 14, rejected=4, weak=0, people=4)
    publish_run(tables, 15, rejected=8, weak=1, name="weekly")
    last = publish_run(tables, 16, rejected=4, weak=1)
    found = {each.kind: each for each in compare_with_usual(tables, last, 0.1)}
    assert found["rejected"].usual == pytest.approx(median(rejected) / 10) and found["rejected"].runs == 10
    assert found["rejected"].share == pytest.approx(0.4) and found["rejected"].unusual
    assert found["weak"].share == pytest.approx(1 / 6) and not found["weak"].unusual
    assert found["weak"].usual == pytest.approx(median(1 / (10 - count) for count in rejected))
    assert not any(each.unusual for each in compare_with_usual(tables, last, 0.35))


@pytest.mark.parametrize(
    "excluded",
    [
        {"exit_status": 2},
        {"not_reached": 1},
        {"people": 4, "rejected": 3},
        {"name": "weekly"},
        {"subset": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_runs_that_are_not_alike_do_not_count(folder_store, excluded):
    tables = Tables(folder_store)
    for day in (1, 2):
        publish_run(tables, day, rejected=1, weak=0)
    publish_run(tables, 3, **({"rejected": 8, "weak": 1} | excluded))
    found = compare_with_usual(tables, publish_run(tables, 4, rejected=4, weak=3), 0.1)
    assert {each.kind: (each.runs, each.usual, each.unusual) for each in found} == {
        "rejected": (2, pytest.approx(0.1), True),
        "weak": (2, 0, True),
    }
