"""faceid prepare: a photograph becomes a picture of box, crop and mask, by the limits of the night."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from skimage import data

from faceid_core import photos
from flows.cli import cli


@pytest.fixture
def folder(tmp_path):
    """One photograph of a face and one file that is no image."""
    found = tmp_path / "photos"
    found.mkdir()
    (found / "astronaut.png").write_bytes(photos.encode_png(data.astronaut()))
    (found / "text.png").write_bytes(b"this is not a picture")
    return found


def prepare(folder, *options):
    out = folder.parent / "prepared"
    told = CliRunner().invoke(
        cli,
        ["prepare", "--photos", str(folder), "--out", str(out), *options],
        env={"COLUMNS": "200"},
        catch_exceptions=False,
    )
    assert told.exit_code == 0, told.output
    return told.output, out


def test_a_face_is_drawn_and_a_text_is_turned_away(folder):
    told, out = prepare(folder, "--faces", "deepface", "--size", "128")
    assert "1 of 2 photos are usable" in told and "not_an_image" in told
    assert [path.name for path in out.iterdir()] == ["astronaut.png"]
    assert photos.decode_png((out / "astronaut.png").read_bytes()).shape[1] > 400


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("min_face_pixels: 300", "face_too_small"),
        ("min_sharpness: 9", "too_blurred"),
        ("max_photo_bytes: 1000", "too_many_bytes"),
        ("max_photo_pixels: 5000", "too_many_pixels"),
    ],
)
def test_the_limits_are_those_of_the_nights_configuration(folder, limit, reason):
    night = folder.parent / "night.yaml"
    night.write_text(f"faces: {{backend: deepface, {limit}}}\n")
    told, out = prepare(folder, "--config", str(night))
    assert reason in told and not list(out.iterdir())
