"""An interrupted training goes on to the very same tokens; one that goes wrong is begun again once, then set aside."""

import numpy as np
import pytest
import torch

from faceid_core.config.method import Method
from faceid_core.diffusion.base import load_base_model
from faceid_core.errors import StoreError
from faceid_core.personalize import slots, trainer
from faceid_core.personalize.checkpoint import Checkpoint
from faceid_core.personalize.trainer import PersonalizeResult, SlotFailure, personalize
from faceid_core.store import FolderStore, sha256_hex
from faceid_core.store.cache import IdentityErased
from faceid_core.store.checkpoint import CheckpointStore
from faceid_core.store.keys import StageCall
from faceid_core.store.layout import identity_scope, tombstone
from tests.helpers.tiny_people import tiny_photo
from tests.helpers.tiny_pipeline import write_tiny_pipeline

METHOD = Method(steps=6, samples_per_step=4, shared_vector=True, stage_learning_rate_ratio=0.5, patience=20)
EVERY_STEP = 1e-9


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base_model(write_tiny_pipeline(tmp_path_factory.mktemp("tiny")), digest="d" * 64)


def learn(base, numbers, method=METHOD, **options):
    found = list(personalize(base, [tiny_photo(number) for number in numbers], method, slots=3, **options))
    entries = [each for each in found if isinstance(each, Checkpoint)]
    return {each.name: each for each in found if not isinstance(each, Checkpoint)}, entries


def same(one: PersonalizeResult, other: PersonalizeResult) -> bool:
    def without_seconds(result):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in result.curve]

    return (
        one.tokens.to_bytes() == other.tokens.to_bytes()
        and without_seconds(one) == without_seconds(other)
        and np.array_equal(one.attention_before, other.attention_before)
        and np.array_equal(one.attention_after, other.attention_after)
    )


@pytest.fixture(scope="module")
def whole(base):
    return learn(base, [1, 2], checkpoint_seconds=EVERY_STEP)


def test_an_entry_of_every_step_is_written_until_the_person_is_done(whole):
    _, entries = whole
    assert [(each.name, each.step) for each in entries] == [
        (f"person-{number}", step) for step in range(1, 6) for number in (1, 2)
    ]


@pytest.mark.parametrize("step", [1, 3, 5])
def test_from_any_entry_and_in_other_company_the_tokens_come_out_the_same(base, whole, step):
    results, entries = whole
    entry = next(each.data for each in entries if (each.name, each.step) == ("person-2", step))
    resumed, _ = learn(base, [3, 2], checkpoint={"person-2": entry})
    assert same(resumed["person-2"], results["person-2"])


def test_the_seconds_before_the_interruption_count(base, whole):
    _, entries = whole
    resumed, _ = learn(base, [1], checkpoint={"person-1": entries[-2].data})
    seconds = [row["seconds"] for row in resumed["person-1"].curve]
    assert seconds == sorted(seconds) and resumed["person-1"].seconds > seconds[-1]


@pytest.mark.parametrize("spoil", ["cut", "changed", "other method", "empty", "done"])
def test_an_entry_that_cannot_be_used_is_told_and_the_person_begins_anew(base, whole, spoil, caplog):
    results, entries = whole
    data, method = entries[0].data, METHOD
    if spoil == "cut":
        data = data[:-5]
    elif spoil == "changed":
        data = data.replace(b"faceid-checkpoint-1", b"faceid-checkpoint-9")
    elif spoil == "empty":
        data = b""
    elif spoil == "done":
        data, method = entries[-2].data, METHOD.model_copy(update={"steps": 5})
    else:
        method = METHOD.model_copy(update={"stages": 2})
    resumed, _ = learn(base, [1], method, checkpoint={"person-1": data})
    assert "person-1: the checkpoint cannot be used" in caplog.text
    expected = results if method is METHOD else learn(base, [1], method)[0]
    assert same(resumed["person-1"], expected["person-1"])


def test_tokens_that_run_off_are_begun_again_at_a_smaller_rate_and_nobody_else_notices(base, monkeypatch):
    expected, _ = learn(base, [1])
    looks = []

    def once(vectors, vocabulary, own=slots.vector_fault):
        looks.append(1)
        return "a vector has run off" if len(looks) == 3 else own(vectors, vocabulary)  # person-2, step 2

    monkeypatch.setattr(trainer, "vector_fault", lambda v, w: once(v, w))
    results, _ = learn(base, [2, 1])
    # Looks go person-2, person-1, person-2: the third is person-2's second step.
    assert results["person-2"].restarted == "a vector has run off" and not results["person-1"].restarted
    assert same(results["person-1"], expected["person-1"])
    assert [row["step"] for row in results["person-2"].curve] == [1, 2, 3, 4, 5, 6]
    slower, _ = learn(base, [2], METHOD.model_copy(update={"learning_rate": 0.3 * METHOD.learning_rate}))
    assert torch.equal(
        results["person-2"].tokens.tensors["text_encoder"], slower["person-2"].tokens.tensors["text_encoder"]
    )


def test_a_person_who_goes_wrong_twice_is_set_aside_with_both_reasons(base):
    wild = METHOD.model_copy(update={"learning_rate": 1000.0, "patience": 0})
    results, _ = learn(base, [1], wild)
    assert isinstance(results["person-1"], SlotFailure)
    assert results["person-1"].reason.count("times as long as the longest of the vocabulary") == 2


def test_a_restart_survives_an_interruption(base, monkeypatch):
    faults = iter(["a vector has run off"])
    monkeypatch.setattr(trainer, "vector_fault", lambda v, w: next(faults, None))
    results, entries = learn(base, [1], checkpoint_seconds=EVERY_STEP)
    resumed, _ = learn(base, [1], checkpoint={"person-1": entries[-1].data})
    assert resumed["person-1"].restarted == "a vector has run off"
    assert same(resumed["person-1"], results["person-1"])


def test_when_memory_runs_out_half_the_slots_go_on_and_no_step_is_lost(base, monkeypatch, caplog):
    step, taken = trainer._Trainer.step, []

    def short_of_memory(self, in_slots):
        # From the third step on there is room for two.
        if len(in_slots) > 2 and any(slot and slot.step == 2 for slot in in_slots):
            raise torch.OutOfMemoryError("no room")
        taken.extend((slot.photo.name, slot.step) for slot in in_slots if slot)
        return step(self, in_slots)

    expected, _ = learn(base, [1, 2, 3, 4])
    monkeypatch.setattr(trainer._Trainer, "step", short_of_memory)
    found = personalize(base, [tiny_photo(number) for number in (1, 2, 3, 4)], METHOD, slots=4)
    results = {each.name: each for each in found}
    assert sorted(taken) == [(f"person-{number}", step) for number in (1, 2, 3, 4) for step in range(6)]
    assert "out of memory with 4 slots; going on with 2" in caplog.text
    for name, result in results.items():
        assert result.slots == 2
        # Another shape moves results by rounding only.
        assert torch.allclose(
            result.tokens.tensors["text_encoder"], expected[name].tokens.tensors["text_encoder"], atol=1e-3
        )


def test_whoever_had_the_last_step_when_memory_ran_out_gets_no_further_one(base, monkeypatch):
    """The memory ends in the second person's update, when the first has just been moved for the last time."""
    update, ends = trainer._Trainer._update, iter([True])

    def short_of_memory(self, slot, gradients):
        if slot.photo.name == "person-2" and slot.step == METHOD.steps - 1 and next(ends, False):
            raise torch.OutOfMemoryError("no room")
        update(self, slot, gradients)

    monkeypatch.setattr(trainer._Trainer, "_update", short_of_memory)
    found = {each.name: each for each in personalize(base, [tiny_photo(1), tiny_photo(2)], METHOD, slots=2)}
    assert {name: each.slots for name, each in found.items()} == {"person-1": 1, "person-2": 1}
    assert all(len(each.curve) == METHOD.steps for each in found.values())


def test_memory_that_is_too_small_for_one_person_is_an_error(base, monkeypatch):
    def no_room(self, in_slots):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(trainer._Trainer, "step", no_room)
    with pytest.raises(torch.OutOfMemoryError):
        learn(base, [1, 2])


def test_the_guards_know_good_from_bad():
    good = [{"loss_diffusion": 0.3}] * 30
    assert slots.loss_fault(good) is None and slots.loss_fault([{"loss_diffusion": 9.0}] * 9) is None
    # One bad step is a timestep's doing; ten are not.
    assert slots.loss_fault([*good, {"loss_diffusion": 90.0}]) is None
    assert "grown to 4.0" in slots.loss_fault(good + [{"loss_diffusion": 4.0}] * 10)
    even = np.full((8, 8), 0.2)
    assert slots.attention_fault(even, even * 0.02) is None
    assert "0.5%" in slots.attention_fault(even, even * 0.005)
    vectors = {"text_encoder": torch.ones(2, 1, 1, 16)}
    assert slots.vector_fault(vectors, {"text_encoder": 1.0}) is None
    assert "400 times" in slots.vector_fault(vectors, {"text_encoder": 0.01})
    assert slots.vector_fault({"text_encoder": vectors["text_encoder"] * torch.nan}, {"text_encoder": 1.0})


CALL = StageCall("personalize", 1, {}, "float32", {"photo": sha256_hex(b"photo")}, {})
PERSON = "0123456789abcdef" * 2


def test_the_store_keeps_the_last_entry_until_it_is_cleared(tmp_path):
    store = FolderStore(str(tmp_path))
    checkpoint = CheckpointStore(store, identity_scope(PERSON), "run-1")
    assert checkpoint.read(CALL, own=False) is None
    for entry in (b"first", b"second\nwith a line"):
        checkpoint.write(CALL, entry)
        assert checkpoint.read(CALL, own=True) == entry
    other = CheckpointStore(store, identity_scope(PERSON), "run-2")
    assert other.read(CALL, own=False) == b"second\nwith a line" and other.read(CALL, own=True) is None
    checkpoint.clear(CALL)
    assert checkpoint.read(CALL, own=False) is None and not [*store.list("")]


def test_a_damaged_entry_is_none_and_an_erased_person_gets_no_entry(tmp_path, caplog):
    store = FolderStore(str(tmp_path))
    checkpoint = CheckpointStore(store, identity_scope(PERSON), "run-1")
    checkpoint.write(CALL, b"entry")
    (file,) = (tmp_path / identity_scope(PERSON) / "checkpoints" / "personalize").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"X")
    assert checkpoint.read(CALL, own=False) is None and "is damaged" in caplog.text
    store.put_if_absent(tombstone(PERSON), b"{}")
    with pytest.raises(IdentityErased):
        checkpoint.write(CALL, b"more")


def test_an_entry_that_the_store_cannot_give_is_none(tmp_path, caplog, monkeypatch):
    store = FolderStore(str(tmp_path))
    checkpoint = CheckpointStore(store, identity_scope(PERSON), "run-1")
    checkpoint.write(CALL, b"entry")

    def broken(name):
        raise StoreError("the disk is gone")

    monkeypatch.setattr(store, "get", broken)
    assert checkpoint.read(CALL, own=False) is None and "cannot be read: the disk is gone" in caplog.text
