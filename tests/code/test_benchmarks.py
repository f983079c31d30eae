"""The benchmarks' own arithmetic: medians, lines, counted operations, joined spans, the table and its JSON."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.benchmarks import gpu
from tests.benchmarks.__main__ import main
from tests.benchmarks.cached_night import require_light, told
from tests.benchmarks.child import Clock, joined_seconds
from tests.benchmarks.gpu_bench import QUICK, Bench, Model
from tests.benchmarks.measuring import Budget, alternate, line_through, ratios, repeated, spread
from tests.benchmarks.operations import count_operations
from tests.benchmarks.results import Row, absent, markdown, write_results
from tests.benchmarks.runs import Seen, start_run
from tests.benchmarks.seconds_per_person import Level, below, reached_first
from tests.benchmarks.settings import CPU, Settings
from tests.benchmarks.throughput import NotWhole, StepClock, StepsOver

ABOUT = {"processor": "p", "gpu": "g", "cores": 2, "threads": 1, "load_before": 0.5, "torch": "1", "diffusers": "2",
         "transformers": "3", "accelerate": "4"}  # fmt: skip


def test_a_figure_is_the_median_and_the_range_of_its_repeats():
    assert spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0, 3)
    assert ratios([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == (3.0, 2.0, 4.0, 3), "within each round"
    with pytest.raises(ValueError, match="at least one repeat"):
        spread([])


def test_cases_take_turns_and_the_warm_rounds_are_thrown_away():
    calls: list[str] = []

    def measure(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    found = alternate({name: lambda name=name: measure(name) for name in "ab"}, 2, warm=1)
    assert calls == ["a", "b"] * 3
    assert found == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_a_line_has_a_start_a_slope_and_the_largest_distance_from_it():
    line = line_through([8, 32, 128], [18.0, 42.0, 138.0])
    assert (line.start, line.each) == (pytest.approx(10.0), pytest.approx(1.0)) and line.deviation < 1e-9
    assert line_through([0, 1, 2], [1.0, 1.0, 4.0]).deviation == pytest.approx(1.0), (
        "0 where 1 was, 2 where 1 was"
    )
    with pytest.raises(ValueError, match="two different numbers"):
        line_through([8, 8], [1.0, 2.0])


def test_operations_of_a_product_a_convolution_and_fused_attention_are_those_worked_out():
    frozen = torch.nn.Conv2d(2, 3, 3, padding=1).requires_grad_(False)
    image = torch.randn(1, 2, 8, 8, requires_grad=True)
    forward = 2 * 8 * 8 * 2 * 3 * 9
    assert sum(count_operations(lambda: torch.randn(4, 5) @ torch.randn(5, 6)).values()) == 2 * 4 * 5 * 6
    assert sum(count_operations(lambda: frozen(image)).values()) == forward
    # A frozen layer's backward pass is the gradient of its input only: as much again, not twice as much.
    assert sum(count_operations(lambda: frozen(image).sum().backward()).values()) == 2 * forward
    heads = [torch.randn(2, 4, 16, 8, requires_grad=True) for _ in range(3)]
    product = 2 * 2 * 4 * 16 * 16 * 8

    def attend():
        return torch.nn.functional.scaled_dot_product_attention(*heads)

    assert sum(count_operations(attend).values()) == 2 * product
    assert sum(count_operations(lambda: attend().sum().backward()).values()) == 7 * product


def test_spans_that_overlap_count_once_and_a_generator_counts_while_it_works():
    assert joined_seconds([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0), (5.5, 5.6)]) == pytest.approx(4.0)
    assert joined_seconds([]) == 0.0

    class Works:
        def works(self):
            yield from (1, 2)

    clock = Clock(0.0)
    clock.around(Works, "works", "works")
    assert list(Works().works()) == [1, 2]
    assert len(clock.spans["works"]) == 4, "the call, two answers, and the end"
    assert set(clock.moments) == {"works"}


def run(**changes) -> Seen:
    usual = dict(
        seconds=20.0,
        moments={"opening": 2.0, "lookup": 3.0, "executor": 4.0, "execute": 6.0},
        spans={"opening": (1.0, 1), "imports": (3.0, 1), "worker": (10.0, 5), "execute": (14.0, 6)},
        peak_bytes=1,
        model_libraries=[],
    )
    return Seen(**(usual | changes))


def test_start_up_is_what_no_person_has_a_part_in():
    seen = run()
    # 2 s until the run opens (its opening is for all people), 2 s for the pool, 3 s of imports.
    assert (seen.start_up, seen.beyond_start_up, seen.orchestration) == (7.0, 13.0, 3.0)
    cached = run(moments={"opening": 2.0, "lookup": 3.0}, spans={"opening": (1.0, 1)})
    assert (cached.start_up, cached.in_stages) == (2.0, 0.0)
    require_light(cached)
    with pytest.raises(AssertionError, match="imported torch"):
        require_light(run(model_libraries=["torch"]))


def test_the_table_shows_figures_bars_and_what_is_absent(tmp_path):
    rows = [
        Row("a", "gain", "x", spread([2.0, 4.0, 3.0]), ("at least", 2.5), "cpu, float32", "a | b"),
        Row("a", "seconds", "s", spread([120.4]), ("at most", 100.0)),
        Row("a", "speed", "pictures/s", spread([0.1234])),
        absent("b", "gain", "no CUDA device here", device="cuda", bar=("at least", 10.0)),
    ]
    assert markdown(rows).splitlines()[2:] == [
        "| a | cpu, float32 | gain (a / b) | 3.00x | 2.00 to 4.00 | at least 2.50 | met |",
        "| a | cpu | seconds | 120 s | once | at most 100 | missed |",
        "| a | cpu | speed | 0.123 pictures/s | once |  |  |",
        "| b | cuda | gain |  |  | at least 10.00 | absent: no CUDA device here |",
    ]
    whole, table = write_results(tmp_path / "out", ABOUT, rows)
    data = json.loads(whole.read_text())
    assert [row["verdict"] for row in data["rows"]] == ["met", "missed", "", "absent"]
    assert data["rows"][0]["figure"] == {"median": 3.0, "low": 2.0, "high": 4.0, "repeats": 3}
    assert data["rows"][3]["figure"] is None and data["about"]["cores"] == 2
    assert (
        "g, p, 2 cores" in table.read_text()
        and "load 0.5 before the run" in table.read_text()
        and markdown(rows) in table.read_text()
    )


def test_requests_are_told_for_each_person_where_they_are_the_persons_own():
    counts = {("GET", "identities/stages"): 26, ("GET", "tables"): 30, ("HEAD", "tombstones"): 4}
    words = told(Counter(counts), 2)
    assert words == "GET tables 30 in all, GET identities/stages 13.0 each, HEAD tombstones 2.0 each"


def test_the_level_to_reach_is_the_shortest_training_within_the_interval_of_the_best():
    def level(steps: int, *identity: float) -> Level:
        return Level(steps, np.array(identity), np.ones(len(identity)), float(steps))

    poor, fair, best = level(1, 0.1, 0.12, 0.11), level(2, 0.5, 0.61, 0.55), level(4, 0.52, 0.6, 0.57)
    assert below(poor, best) and not below(fair, best)
    assert reached_first([poor, fair, best]).samples == 2


def test_a_command_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"status 3(?s:.*)run.only"):
        start_run(Settings(tmp_path), "--store", str(tmp_path / "store"), "--only", "absent-id")


def test_the_command_without_the_script_marks_its_rows_absent(tmp_path):
    ended = CliRunner().invoke(main, ["seconds-per-person", "--quick", "--out", str(tmp_path)])
    assert ended.exit_code == 0, ended.output
    assert "absent: give --textual-inversion-script PATH" in ended.output
    assert json.loads((tmp_path / "results.json").read_text())["rows"][0]["verdict"] == "absent"


def test_a_benchmark_that_breaks_is_a_row_and_the_exit_status(tmp_path, monkeypatch):
    def broken(_settings):
        raise RuntimeError("first line\nand why")

    def breaking(settings):
        yield Row("seconds-per-person", "measured before", "s", spread([1.0]))
        broken(settings)

    for run, rest in ((broken, "all"), (breaking, "the rest")):
        monkeypatch.setattr("tests.benchmarks.seconds_per_person.run", run)
        ended = CliRunner().invoke(main, ["seconds-per-person", "--out", str(tmp_path)])
        assert ended.exit_code == 1
        table = (tmp_path / "results.md").read_text()
        assert f"| {rest} |" in table and "absent: broke: RuntimeError: first line and why" in table
    assert "measured before" in table


def test_a_part_has_no_more_time_than_the_whole_and_a_call_is_measured_in_any_case():
    whole = Budget(10.0, began=0.0)
    assert whole.left < 0 and whole.part(5.0).left < 0
    assert 4.9 < Budget(100.0).part(5.0).left <= 5.0
    assert len(repeated(lambda: None, -1.0)) == 1


def test_steps_count_only_while_all_people_take_them():
    clock = StepClock(2, most_seconds=float("inf"))
    for step in (1, 2):
        for name in ("ann", "bob"):
            clock.progress(name, step, 9)
    clock.progress("ann", 3, 9)
    assert set(clock.ends) == {1, 2, 3}
    with pytest.raises(NotWhole, match="fewer than 2 people"):
        clock.progress("ann", 4, 9)  # bob was parked when the memory ran out
    with pytest.raises(NotWhole, match="bob began again"):
        clock.progress("bob", 1, 9)


def test_training_ends_when_its_seconds_are_over_but_not_before_one_timed_step():
    clock = StepClock(1, most_seconds=0.0)
    clock.progress("ann", 1, 9)
    clock.progress("ann", 2, 9)
    with pytest.raises(StepsOver):
        clock.progress("ann", 3, 9)


def test_without_a_gpu_its_benchmark_is_one_absent_row(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ended = CliRunner().invoke(main, ["gpu", "--quick", "--out", str(tmp_path)])
    assert ended.exit_code == 0, ended.output
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert (row["verdict"], row["absent"]) == ("absent", "no CUDA device here")


def test_a_part_that_breaks_or_has_no_time_left_is_a_row_beside_what_was_found(tmp_path):
    bench = Bench(Model("sd15", "SD", 0.1, 1, (4,)), CPU, Settings(tmp_path), QUICK)

    def breaks(bench, _budget):
        yield bench.row("speed", "x", [1.0])
        raise RuntimeError("and why")

    def runs_out(_bench, _budget):
        raise torch.OutOfMemoryError

    found, broken = gpu.rows_of(bench, ("part", 5.0, breaks), Budget(10.0))
    assert found.figure and broken.broke and "and why" in broken.absent
    (full,) = gpu.rows_of(bench, ("part", 5.0, runs_out), Budget(10.0))
    assert not full.broke and "memory" in full.absent
    (late,) = gpu.rows_of(bench, ("part", 5.0, breaks), Budget(-1.0))
    assert not late.broke and late.absent
