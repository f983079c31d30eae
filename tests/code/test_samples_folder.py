"""Where the sample people are written: beside the store, however its address is spelled."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from faceid_core import photos
from faceid_core.config import NightlyConfig, load_config
from faceid_core.errors import ConfigurationError
from faceid_core.miniature import samples
from faceid_core.run.identities import manifest_source, read_identities


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


def test_the_example_of_photographs_is_a_real_portrait(tmp_path, monkeypatch):
    """`make run-photos` needs no file of the user's, and says what is missing where scikit-image is."""
    example = Path(__file__).parents[2] / "examples" / "photographs.yaml"
    config = load_config(example, {"store": str(tmp_path / "store")})
    (person,) = read_identities(config)
    assert (person.identity_id, person.class_word) == ("astronaut", "woman")
    assert photos.decode(Path(person.photo).read_bytes()).shape == (512, 512, 3)
    assert config.faces.photographs and config.score.recognizers == ("Dlib",)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'faceid\[example\]'"):
        read_identities(load_config(example, {"store": str(tmp_path / "elsewhere" / "store")}))
