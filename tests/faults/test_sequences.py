"""Any sequence of runs, crashes, exchanged photos and changed settings ends as a fresh run of the last state does."""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.faults.conftest import write_person
from tests.helpers.aftermath import nothing_is_left_over
from tests.helpers.fault_counts import FaultRecord
from tests.helpers.faulty import Faults
from tests.helpers.killed import KILLED, night_in_a_child

SEED = int(os.environ["FACEID_FAULT_SEED"])  # drawn and printed by tests/conftest.py
FEW, MANY = 4, 8  # things that happen before the last run
SEQUENCES = 40
PHOTOS = (8101, 8103, 8104)
PROMPTS = ("a photo of V* on the beach", "a photo of V* in the forest")


@dataclass(frozen=True)
class State:
    """What a run is asked for: whose photo, how many steps of training, how many pictures of which prompt."""

    photo: int = PHOTOS[0]
    steps: int = 2
    seeds: int = 1
    prompt: str = PROMPTS[0]


@pytest.fixture(scope="module")
def config_of(night_on, tmp_path_factory):
    """Make the configuration of a state on a store; the photo is put where it says."""

    def make(store: str, state: State):
        folder = tmp_path_factory.mktemp("state")
        write_person(folder, "ann", state.photo)
        grid = {"id": "a", "text": state.prompt, "category": "scene"}
        (folder / "grid.yaml").write_text(json.dumps({"name": "one", "prompts": [grid]}))
        return night_on(
            store,
            people=str(folder),
            personalize={"method": {"steps": state.steps, "samples_per_step": 5}},
            generate={"grid": str(folder / "grid.yaml"), "seeds": state.seeds},
        )

    return make


@pytest.fixture(scope="module")
def fresh(config_of):
    """What a run of a state comes to on a store of its own; each state is tried once."""
    known: dict[State, dict] = {}

    def run(state: State) -> dict:
        if state not in known:
            config = config_of(f"fresh-{len(known)}", state)
            known[state] = night_in_a_child(config).report
            assert known[state]["exit_status"] == 0, known[state]
            shutil.rmtree(Path(config.store))
        return known[state]

    return run


def happen(chosen: random.Random, state: State) -> tuple[str, State]:
    """The next thing that happens, and the state after it."""
    match chosen.choice(["run", "crash", "crash", "photo", "steps", "seeds", "prompt"]):
        case "photo":
            return "photo", replace(state, photo=chosen.choice(PHOTOS))
        case "steps":
            return "steps", replace(state, steps=chosen.choice([2, 3]))
        case "seeds":
            return "seeds", replace(state, seeds=chosen.choice([1, 2]))
        case "prompt":
            return "prompt", replace(state, prompt=chosen.choice(PROMPTS))
        case what:
            return what, state


def check(config_of, fresh, seed: int, length: int) -> tuple[int, int, int]:
    """Play a sequence; crashes, runs and objects compared."""
    chosen, state, store = random.Random(seed), State(), f"sequence-{seed}"
    history, crashes, runs = [], 0, 0
    for _ in range(length):
        what, state = happen(chosen, state)
        history.append(what)
        if what == "run":
            ended, runs = night_in_a_child(config_of(store, state)), runs + 1
            assert ended.report["exit_status"] == 0, f"{history} (seed {seed}): {ended}"
        if what == "crash":
            # A cached run makes fewer calls, and may end before it is killed.
            faults = Faults(die_at=chosen.randint(2, 200), after=chosen.random() < 0.5)
            died = night_in_a_child(config_of(store, state), faults=faults).exit_code
            assert died in (KILLED, 0), f"{history} (seed {seed})"
            crashes, runs = crashes + (died == KILLED), runs + 1
    config = config_of(store, state)
    last, alone = night_in_a_child(config).report, fresh(state)
    where = f"{history}, then {state} (FACEID_FAULT_SEED={seed})"
    assert last is not None and last["exit_status"] == 0, where
    for part in ("contents", "blobs"):
        assert last[part] == alone[part], f"{where}: {part} differ"
    for name, rows in alone["tables"].items():
        found = last["tables"][name]
        if name in ("images", "image_metrics"):
            # Those of earlier states stay: other pictures, and the floor's pictures scored against an earlier photo.
            key = "score_key" if name == "image_metrics" else "generate_key"
            keys = {json.loads(row)[key] for row in rows}
            found = [row for row in found if json.loads(row)[key] in keys]
        assert found == rows, f"{where}: {name} differs"
    nothing_is_left_over(config, where)
    shutil.rmtree(Path(config.store))
    return crashes, runs + 1, len(last["contents"]) + len(last["blobs"])


def test_a_sequence_ends_as_a_fresh_night_of_its_last_state(config_of, fresh):
    assert check(config_of, fresh, SEED, FEW)[2] > 10


@pytest.mark.exhaustive
@pytest.mark.timeout(6 * 3600)
def test_many_sequences_end_as_fresh_nights_of_their_last_states(config_of, fresh):
    record = FaultRecord("sequences")
    for point in record.left([str(seed) for seed in range(SEQUENCES)]):
        crashes, runs, compared = check(config_of, fresh, int(point), MANY)
        record.add(point, faults=crashes, runs=runs, compared=compared)
