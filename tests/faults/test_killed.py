"""A run that is killed at any call of the store goes on with the same command, and ends as if nothing had been."""

from __future__ import annotations

import os
import random

import pytest

from tests.helpers.aftermath import run_again
from tests.helpers.fault_counts import FaultRecord
from tests.helpers.faulty import CALLS, Faults
from tests.helpers.killed import KILLED, night_in_a_child

SEED = int(os.environ["FACEID_FAULT_SEED"])  # drawn and printed by tests/conftest.py
SAMPLE = 2
RACING = 4


@pytest.fixture(scope="module")
def calls(night_on, undisturbed) -> int:
    """How many calls of the store the undisturbed run makes, reads among them."""
    return night_in_a_child(night_on("counted"), faults=Faults(calls=CALLS)).report["writes"]


def check(
    night_on, undisturbed, calls: int, call: int, *, after: bool, place: str = "killed"
) -> tuple[bool, int]:
    """Kill a run at one of so many calls, run it again, compare: whether it was killed, objects compared."""
    where = f"killed {'after' if after else 'before'} call {call}"
    # A second run at the same place would find everything done, and die nowhere.
    config = night_on(f"{place}-{'after' if after else 'before'}-{call}")
    killed = night_in_a_child(config, faults=Faults(calls=CALLS, die_at=call, after=after))
    # The last calls race with the lease's release, and may not come.
    assert killed.exit_code == KILLED or (killed.exit_code == 0 and call > calls - RACING), where
    return killed.exit_code == KILLED, run_again(config, undisturbed, where)


def test_killed_at_a_few_calls_the_night_goes_on(night_on, undisturbed, calls):
    chosen = random.Random(SEED)
    for call in chosen.sample(range(2, calls - RACING + 1), SAMPLE):
        after = chosen.random() < 0.5
        assert check(night_on, undisturbed, calls, call, after=after, place="sampled")[1] > 20


@pytest.mark.exhaustive
@pytest.mark.timeout(6 * 3600)
def test_killed_at_every_call_the_night_goes_on(night_on, undisturbed, calls):
    record = FaultRecord("killed-at-every-store-call")
    points = [f"{when} {call}" for call in range(1, calls + 1) for when in ("before", "after")]
    for point in record.left(points):
        when, call = point.split()
        killed, compared = check(night_on, undisturbed, calls, int(call), after=when == "after")
        record.add(point, faults=int(killed), runs=1, compared=compared)  # one that ended before is no fault
