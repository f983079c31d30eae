"""Where the sample people are written: beside the store, however its address is spelled."""

from __future__ import annotations

from pathlib import Path

import pytest

from faceid_core.config import NightlyConfig
from faceid_core.miniature import samples
from faceid_core.run.identities import manifest_source


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        ("~/x/store", "home/x/samples"),
        ("file://{root}/a%20b/store", "a b/samples"),
        ("plain/store", "here/plain/samples"),
        ("s3://bucket/store", "work/samples"),
    ],
)
def test_samples_lie_beside_the_store(store, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    written = []
    monkeypatch.setattr(samples, "write_samples", written.append)
    named = manifest_source(NightlyConfig(store=store.format(root=tmp_path)))
    folder = Path(expected) if store.startswith("s3") else tmp_path / expected
    assert written == [folder] and named == str(folder / "identities.csv")


def test_a_photo_that_was_exchanged_by_hand_stays(tmp_path):
    config = NightlyConfig(store=str(tmp_path / "store"))
    (photo, *_) = sorted(Path(manifest_source(config)).parent.glob("*.png"))
    photo.write_bytes(b"exchanged")
    assert Path(manifest_source(config)).parent == photo.parent and photo.read_bytes() == b"exchanged"
