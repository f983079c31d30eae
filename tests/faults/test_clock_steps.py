"""A wall clock that is set by an hour, back or ahead, at any stage of a run: the run ends as if it had not been."""

from __future__ import annotations

import os
import random

import pytest

from tests.helpers.aftermath import compare_with, run_again
from tests.helpers.fault_counts import FaultRecord
from tests.helpers.faulty import Faults
from tests.helpers.killed import STEP_PLACES, night_in_a_child

SEED = int(os.environ["FACEID_FAULT_SEED"])  # drawn and printed by tests/conftest.py
HOUR = 3600.0


def check(night_on, undisturbed, place: str, seconds: float) -> int:
    """A run whose clock is set at a place, and one after it by the true clock; how many objects were compared."""
    where = f"clock set by {seconds:+.0f} s at {place} (FACEID_FAULT_SEED={SEED})"
    config = night_on(f"clock-{place}-{seconds:+.0f}")
    ended = night_in_a_child(config, faults=Faults(step_at=place, step_seconds=seconds))
    assert ended.report["clock"] == seconds, f"{where}: the run never came there"
    compared = compare_with(undisturbed, ended, where)
    assert all(0 <= each < HOUR / 2 for each in ended.report["seconds"]), (
        f"{where}: {ended.report['seconds']}"
    )
    assert not ended.report["lease_lost"], where
    return compared + run_again(config, undisturbed, where)


def test_a_clock_that_is_set_at_one_place(night_on, undisturbed):
    chosen = random.Random(SEED)
    assert check(night_on, undisturbed, chosen.choice(STEP_PLACES), chosen.choice((-HOUR, HOUR))) > 20


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_a_clock_that_is_set_at_every_place(night_on, undisturbed):
    record = FaultRecord("clock-steps")
    points = [f"{place} {seconds:+.0f}" for place in STEP_PLACES for seconds in (-HOUR, HOUR)]
    for point in record.left(points):
        place, seconds = point.rsplit(" ", 1)  # "outcome reports" is a place
        record.add(point, faults=1, runs=1, compared=check(night_on, undisturbed, place, float(seconds)))
