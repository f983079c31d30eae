"""How a stage's misses are cut into task runs."""

from __future__ import annotations

import pytest

from faceid_core.stages.work import Done, Work
from faceid_core.store.keys import StageCall
from tasks.stage_tasks import chunks, end_state


@pytest.mark.parametrize(
    ("misses", "size", "slots", "cut"),
    [
        (5, 2, 1, [(1, 2), (3, 4), (5, 5)]),
        (20, 10, 8, [(1, 16), (17, 20)]),
        (33, 32, 8, [(1, 32), (33, 33)]),
        (3, 1, 8, [(1, 3)]),
        (0, 4, 2, []),
    ],
)
def test_no_chunk_but_the_last_ends_within_a_pass(misses, size, slots, cut):
    assert chunks(range(misses), size, whole=slots) == cut
    passes = sum(-(-(last - first + 1) // slots) for first, last in cut)
    assert passes == -(-misses // slots), "no pass more than the misses need"


def work_of(stage: str) -> Work:
    return Work("ann", "common", StageCall(stage, 1, {}), {}, stage)


@pytest.mark.parametrize(
    ("statuses", "name", "message"),
    [
        (["done", "done"], "Completed", "2 of 2 done"),
        (["done", "rejected", "failed"], "Completed", "1 of 3 done, 1 rejected, 1 failed"),
        (["failed", "failed"], "Failed", "all 2 works of this chunk failed: why"),
        (["done", "not_reached", "failed"], "Stopped", "1 of 3 done, 1 not reached, 1 failed: why"),
        (["not_reached"], "Stopped", "0 of 1 done, 1 not reached: why"),
    ],
)
def test_a_chunks_state_says_how_its_works_ended(statuses, name, message):
    of_stage, beside = (
        [Done(work_of(call), status, message="why") for status in each]
        for call, each in (("personalize", statuses), ("generate", ["done", "failed"]))
    )
    state = end_state("personalize", [*of_stage, *beside])
    assert (state.name, state.message) == (name, message), "what ran beside does not make a lost chunk look whole"
