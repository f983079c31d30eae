"""A folder of photos as people keep them: who is in it, under which id, and why the rest is left out."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from faceid_core import photos
from faceid_core.config import NightlyConfig
from faceid_core.errors import InputContractError, PhotoRejected
from faceid_core.identity import read_folder, read_manifest
from faceid_core.photo_folder import ids_of_names, photos_of
from faceid_core.plan.planning import plan_run
from faceid_core.report.synthetic_mark import SyntheticMark, marked_png
from faceid_core.run.identities import read_requested
from flows.cli_plan import print_plan

JPEG = b"\xff\xd8\xff\xe0" + b"x" * 20
HEIC = b"\0\0\0\x18ftypheix" + b"\0" * 20


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def photo_names(folder: Path) -> dict[str, str]:
    return {each.identity_id: str(Path(each.photo).relative_to(folder)) for each in read_folder(folder)[0]}


def reasons(folder: Path) -> dict[str, str]:
    return {each.name: each.reason for each in read_folder(folder)[1]}


def test_fifteen_files_of_every_ending_are_all_shown(tmp_path):
    """Telephones, cameras and downloads: each is a candidate or is listed with what it is."""
    fill(
        tmp_path,
        {
            "a.jpg": JPEG, "b.HIF": HEIC, "c.heics": HEIC, "d.mpo": JPEG, "e.jxl": b"\xff\x0a12",
            "f.jp2": b"\0\0\0\x0cjP  \r\n\x87\n", "g.dng": b"II*\0", "h": JPEG, "i.bin": HEIC, "j.tmp": b"\xff\x0a12",
            "k.txt": b"a note", "l.mp4": b"\0\0\0\x18ftypisom", "m.zip": b"PK\x03\x04", "n.dat": b"",
            "o.xmp": b"<x/>",
        },
    )  # fmt: skip
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    assert set(photo_names(tmp_path)) == set("abcdefghij")
    left_out = {each.name: each.sentence for each in read_folder(tmp_path)[1]}
    assert set(left_out) == {
        "k.txt", "l.mp4", "m.zip", "n.dat", "o.xmp", "gone.jpg", "pipe.jpg", ".DS_Store"
    }  # fmt: skip
    assert "a video" in left_out["l.mp4"] and "empty" in left_out["n.dat"]
    assert "not there" in left_out["gone.jpg"] and "zip archive" in left_out["m.zip"]


@pytest.mark.parametrize(
    ("data", "name"),
    [(b"\xff\x0a12", "JPEG XL"), (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"), (b"\0\0\0\x18ftypcrx ", "raw")],
)
def test_a_picture_that_is_not_read_is_rejected_by_its_format(data, name):
    with pytest.raises(PhotoRejected, match=f"{name} format are not accepted"):
        photos.decode(data + b"\0" * 40)


def test_a_folder_per_person(tmp_path):
    fill(
        tmp_path,
        {
            "Ann Smith/IMG_1.jpg": JPEG, "Ann Smith/notes.txt": b"text", "J. Doe/1.png": JPEG, "ann.jpg": JPEG,
            "ann/x.jpg": JPEG, "two/a.jpg": JPEG, "two/b.jpg": JPEG, "deep/er/c.jpg": JPEG, "none/notes.txt": b"text",
        },
    )  # fmt: skip
    assert photo_names(tmp_path) == {
        "Ann-Smith": "Ann Smith/IMG_1.jpg", "J.-Doe": "J. Doe/1.png", "ann-jpg": "ann.jpg", "ann-folder": "ann/x.jpg"
    }  # fmt: skip
    assert reasons(tmp_path) == {
        "Ann Smith/notes.txt": "not_a_picture", "two": "several_photos", "deep/er": "folder", "deep": "no_photo_inside",
        "none/notes.txt": "not_a_picture", "none": "no_photo_inside",
    }  # fmt: skip
    (two,) = (each for each in read_folder(tmp_path)[1] if each.name == "two")
    assert "2 photos (a.jpg, b.jpg)" in two.sentence and "identities.csv" in two.sentence


def test_names_that_come_to_one_id_are_numbered_in_their_order():
    alike = [f"王{chr(0x4E00 + number)}_photo.jpg" for number in range(300)] + ["_photo.jpg", "_photo-jpg-3.jpg"]
    ids = ids_of_names(alike)
    assert len(set(ids.values())) == len(alike)
    assert ids["_photo-jpg-3.jpg"] == "_photo-jpg-3", "a name that no other comes to keeps its own"
    numbered = [ids[name] for name in sorted(alike) if name != "_photo-jpg-3.jpg"]
    assert numbered == ["_photo-jpg", "_photo-jpg-2", *(f"_photo-jpg-{number}" for number in range(4, 303))]


def test_ids_stay_when_other_photos_come_and_go(tmp_path):
    fill(tmp_path, {"Zoë Müller.jpg": JPEG, "b/1.jpg": JPEG})
    before = photo_names(tmp_path)
    fill(tmp_path, {"a.jpg": JPEG, "b/notes.txt": b"text", "c/1.jpg": JPEG})
    assert before.items() <= photo_names(tmp_path).items() and "Zoe-Muller" in before


def test_a_folder_without_photos_says_what_it_holds(tmp_path):
    fill(tmp_path, {"notes.txt": b"text", "several/a.jpg": JPEG, "several/b.jpg": JPEG})
    with pytest.raises(InputContractError) as caught:
        read_manifest(tmp_path)
    assert caught.value.problems[0] == "holds no photo"
    assert [problem.split(":")[0] for problem in caught.value.problems[1:]] == ["notes.txt", "several"]


def test_what_prepare_wrote_is_no_person(tmp_path):
    fill(tmp_path, {"a.jpg": JPEG, "prepared/prepared.csv": b"", "prepared/sheet.png": b"\x89PNG\r\n\x1a\n"})
    assert list(photo_names(tmp_path)) == ["a"] and reasons(tmp_path) == {"prepared": "results"}


def test_names_that_are_no_text_are_read(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).write_bytes(JPEG)
    ((identity,), _) = read_folder(tmp_path)
    assert identity.identity_id == "caf" and Path(identity.photo).read_bytes() == JPEG


def test_a_run_counts_what_it_leaves_out_and_names_nothing(tmp_path):
    fill(tmp_path, {"a.jpg": JPEG, "Ann/a.jpg": JPEG, "Ann/b.jpg": JPEG, "note.txt": b"text"})
    people, told = read_requested(NightlyConfig(identities=str(tmp_path)))
    assert [person.identity_id for person in people] == ["a"]
    assert told.startswith("2 entries") and "1 not_a_picture, 1 several_photos" in told
    assert "Ann" not in told and "note" not in told
    fill(tmp_path, {"identities.csv": b"identity_id,photo,class_word\nq,a.jpg,person\n"})
    assert read_requested(NightlyConfig(identities=str(tmp_path)))[1] == ""


def test_a_plan_looks_at_a_folder_of_photos_once(tmp_path, monkeypatch):
    """Each look opens every file; on a network drive with thousands of photos it takes minutes."""
    fill(tmp_path / "photos", {"a.jpg": JPEG, "note.txt": b"text"})
    looks = []
    monkeypatch.setattr(
        "faceid_core.identity.photos_of", lambda folder: looks.append(folder) or photos_of(folder)
    )
    config = NightlyConfig(identities=str(tmp_path / "photos"), store=str(tmp_path / "store"))
    print_plan(plan_run(config), Console(file=(shown := io.StringIO()), width=200))
    assert "1 entry of the folder of photos left out" in shown.getvalue()
    assert len(looks) == 1


def test_images_that_faceid_drew_and_results_of_prepare_are_no_people(tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    fill(
        tmp_path,
        {
            "ann.jpg": JPEG, "ann-drawn.png": marked_png(image, SyntheticMark("0" * 64)),
            "own.png": photos.encode_png(image), "sheet.png": photos.encode_png(image),
        },
    )  # fmt: skip
    assert set(photo_names(tmp_path)) == {"ann", "own", "sheet"} and reasons(tmp_path) == {"ann-drawn.png": "drawn"}
    fill(tmp_path, {"prepared.csv": b"identity_id\n", "people/ann.png": JPEG, "thumbnails/ann.png": JPEG})
    assert set(photo_names(tmp_path)) == {"ann", "own"}
    assert {name for name, reason in reasons(tmp_path).items() if reason == "results"} == {
        "sheet.png", "people", "thumbnails",
    }  # fmt: skip
