"""A cat among people: its mask takes the place of the face stages, everything after goes as for anybody."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from faceid_core.errors import ConfigurationError
from faceid_core.stages.files import read_png
from faceid_core.store import StageCache
from tests.end_to_end.conftest import write_photo
from tests.end_to_end.test_inline_folder import execute


def test_a_cat_is_learned_from_its_mask_beside_a_person(small, people, tmp_path):
    folder = people.parent
    image = np.random.default_rng(0).integers(0, 60, (120, 160, 3), dtype=np.uint8)
    image[30:90, 50:120] += 150
    mask = np.zeros((120, 160, 3), np.uint8)
    mask[30:90, 50:120] = 255
    write_photo(folder, "tom.png", image)
    write_photo(folder, "tom-mask.png", mask)
    write_photo(folder, "small-mask.png", mask[:60])
    with people.open("w", newline="") as stream:
        rows = [("ann", "ann.png", "person", ""), ("tom", "tom.png", "object", "tom-mask.png")]
        rows.append(("odd", "tom.png", "object", "small-mask.png"))
        csv.writer(stream).writerows([("identity_id", "photo", "class_word", "subject_mask"), *rows])
    sections = {"score": {"metrics": ["image_text"], "named_people": 0}}
    with pytest.raises(
        ConfigurationError, match=r"lines 3, 4 of the manifest .* starts at the names of people"
    ):
        execute(small(str(tmp_path / "store"), people, **sections))
    sections["personalize"] = {"preset": "textual-inversion"}
    run, ended = execute(small(str(tmp_path / "store"), people, **sections))
    assert ended.exit_status == 0
    outcomes = {
        each.identity_id: (str(each.outcome), each.reason) for each in run.outcome_reports.values()
    }
    assert outcomes["ann"][0] == outcomes["tom"][0] == "done"
    assert outcomes["odd"] == ("rejected", "subject_mask_size")
    tom = next(subject for subject in run.subjects.values() if subject.identity_id == "tom")
    kept = StageCache(run.store, tom.scope).read(tom.manifests["mask"], "mask.png")
    assert 0.4 < (read_png(kept) > 0).mean() < 0.7
    again, _ = execute(small(str(tmp_path / "store"), people, **sections))
    assert not again.computed.get("personalize")
