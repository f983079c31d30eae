"""Damage in a folder store: what is damaged is made again from what it came from, once, and the run goes on."""

from __future__ import annotations

import pytest

from tests.end_to_end.test_inline_folder import execute, outcomes


def test_a_damaged_blob_is_made_again_and_used(small, people, tmp_path):
    config = small(str(tmp_path / "store"), people)
    first, _ = execute(config)
    ann = next(s for s in first.subjects.values() if s.identity_id == "ann")
    tokens = ann.manifests["personalize"].outputs["tokens.safetensors"]
    blob = tmp_path / "store" / ann.scope / "blobs" / tokens.digest
    blob.chmod(0o644)
    blob.write_bytes(b"damaged")
    for generated in (tmp_path / "store" / ann.scope / "stages" / "generate").glob("*.json"):
        generated.unlink()

    second, ended = execute(config)
    assert ended.exit_status == 0 and outcomes(second)["ann"] == "done"
    assert second.computed["personalize"] == 1, "the producer ran once more"
    assert blob.read_bytes() != b"damaged"
    again = next(s for s in second.subjects.values() if s.identity_id == "ann")
    assert again.manifests["generate"].content == ann.manifests["generate"].content


@pytest.mark.exhaustive
def test_what_is_forced_is_forced_although_its_input_had_to_be_made_again(small, people, tmp_path):
    store = str(tmp_path / "store")
    first, _ = execute(small(store, people))
    ann = next(s for s in first.subjects.values() if s.identity_id == "ann")
    tokens = ann.manifests["personalize"].outputs["tokens.safetensors"]
    blob = tmp_path / "store" / ann.scope / "blobs" / tokens.digest
    blob.chmod(0o644)
    blob.write_bytes(b"damaged")
    forced = {"only": ("ann",), "force": True, "from_stage": "generate"}
    second, ended = execute(small(store, people, run=forced))
    assert ended.exit_status == 0
    drawn = second.subjects[ann.name].manifests["generate"].provenance
    assert (drawn["run_id"], drawn["pictures_drawn"]) == (second.run_id, 6)


def test_a_damaged_rejection_is_found_again(small, people_and_trouble, tmp_path):
    config = small(str(tmp_path / "store"), people_and_trouble)
    first, _ = execute(config)
    empty = next(s for s in first.subjects.values() if s.identity_id == "empty")
    blob = empty.manifests["detect"].outputs["rejection.json"].digest
    (tmp_path / "store" / empty.scope / "blobs" / blob).unlink()
    second, ended = execute(config)
    assert ended.exit_status == 0 and outcomes(second)["empty"] == "rejected"
    assert second.computed["detect"] == 0 and outcomes(second)["ann"] == "cached"


@pytest.mark.exhaustive
def test_two_damaged_producers_of_one_consumer_are_both_made_again_once(small, people, tmp_path):
    config = small(str(tmp_path / "store"), people)
    first, _ = execute(config)
    ann = next(s for s in first.subjects.values() if s.identity_id == "ann")
    folder = tmp_path / "store" / ann.scope
    for result, output in (("detect", "crop.png"), ("mask", "mask.png")):
        (folder / "blobs" / ann.manifests[result].outputs[output].digest).unlink()
    for stage in ("personalize", "generate"):
        for manifest in (folder / "stages" / stage).glob("*.json"):
            manifest.unlink()
    second, ended = execute(config)
    assert ended.exit_status == 0 and outcomes(second) == {"ann": "done", "bob": "cached"}
    assert second.computed["detect"] == second.computed["mask"] == second.computed["personalize"] == 1
