"""Thousands of damaged files: whatever comes from outside is used, or refused with a reason, and never escapes.

`python -m tests.faults.fuzzing` tries 100,000 for each reader; here are seeded samples of them.
"""

from __future__ import annotations

import resource
from contextlib import suppress

import pytest

from tests.faults.fuzzing import Target, run, targets

# Inputs of the sample in `make test`, and of the exhaustive run.
FEW, MANY = 400, 10_000
NAMES = ("decoder", "manifest", "configuration", "tokens", "grid")


@pytest.fixture(scope="module")
def known():
    return targets()


def test_every_reader_has_a_test(known):
    assert tuple(known) == NAMES


def check(target: Target, inputs: int, seed: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tally = run(target, inputs, seed=seed)
    assert tally.escaped == []
    assert sum(tally.seen.values()) == inputs and len(tally.seen) > 1, tally.seen
    # In KiB: a mutation must not make a reader hold hundreds of times what the sound file needs.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_of_mutated_inputs(known, name):
    check(known[name], FEW, seed=1)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_many_mutated_inputs(known, name):
    check(known[name], MANY, seed=2)


def test_no_bit_of_a_parquet_footer_ends_the_process(known):
    """pyarrow's reader of column chunks aborts where one of 18 of the 1,017 bytes is damaged; these hold eleven."""
    sound = known["manifest"].seeds[1]
    assert sound[-4:] == b"PAR1"
    footer = len(sound) - 8 - int.from_bytes(sound[-8:-4], "little")
    for place in range(120):
        for bit in range(8) if place in (18, 19, 20, 42, 43, 44, 60, 61, 62) else (place % 8,):
            damaged = bytearray(sound)
            damaged[footer + place] ^= 1 << bit
            assert known["manifest"].read(bytes(damaged)) in ("read", "refused")


def test_what_escapes_or_hangs_is_told(monkeypatch):
    def escapes(data: bytes) -> str:
        if data[:1] in (b"\0", b"\1"):
            return "used"
        if len(data) % 2:
            raise KeyError("key")
        return "used"

    tally = run(Target([b"\0\1\2\3" * 20], escapes), 200)
    assert tally.escaped and all(what == "KeyError: 'key'" for _, what in tally.escaped)
    monkeypatch.setattr("tests.faults.fuzzing.MOST_SECONDS", 0.05)

    def hangs(data: bytes) -> str:
        while True:
            with suppress(Exception):
                sum(range(100))

    ((_, what),) = run(Target([b"x"], hangs), 1).escaped
    assert what.startswith("TooSlow")
