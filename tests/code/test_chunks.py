"""How a stage's misses are cut into task runs."""

from __future__ import annotations

import pytest

from tasks.stage_tasks import chunks


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
