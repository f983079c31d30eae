"""faceid prepare: photographs become a table, a sheet, a page of rejections and pictures, by the limits of the run."""

from __future__ import annotations

import csv
import io
import os
import weakref

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from skimage import data

from faceid_core import photos
from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, InputContractError
from faceid_core.identity import read_manifest
from faceid_core.prepare import results
from faceid_core.prepare.check import CheckedPhoto, CheckSettings, check_photos
from faceid_core.prepare.labels import read_labels
from faceid_core.store.keys import sha256_hex
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
    assert sorted(path.name for path in out.iterdir()) == [
        "checked.jsonl", "index.html", "people", "prepared.csv", "prepared.parquet", "sheet.png", "thumbnails"
    ]  # fmt: skip
    assert photos.decode_png((out / "people" / "astronaut.png").read_bytes()).shape[1] > 400


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
    run = folder.parent / "night.yaml"
    run.write_text(f"faces: {{backend: deepface, {limit}}}\n")
    told, out = prepare(folder, "--config", str(run))
    assert reason in told and not list((out / "people").iterdir())
    (page,) = [
        line
        for line in (out / "index.html").read_text().splitlines()
        if f">{reason}<" in line and "astronaut.png</td>" in line
    ]
    row = next(row for row in rows(out) if row["identity_id"] == "astronaut")
    assert row["reason"] == reason and row["sentence"][:40] in page
    assert float(row["value"]) != float(row["threshold"])


def rows(out):
    with (out / "prepared.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_many_photos_in_two_processes_give_one_table_one_sheet_and_one_page(tmp_path):
    found = tmp_path / "photos"
    found.mkdir()
    image = data.astronaut()
    for number in range(18):
        shifted = np.roll(image, 3 * number, axis=1) if number % 3 else image[:102]
        (found / f"p{number:02}.jpg").write_bytes(jpeg(shifted))
    (found / "text.png").write_bytes(b"this is not a picture")
    told, out = prepare(found, "--size", "64", "--jobs", "2", "--no-pictures")
    table = rows(out)
    assert [row["identity_id"] for row in table] == [f"p{n:02}" for n in range(18)] + ["text"]
    assert [row["outcome"] for row in table] == ["rejected", "usable", "usable"] * 6 + ["rejected"]
    assert all(80 < float(row["face_pixels"]) < 120 for row in table if row["outcome"] == "usable")
    assert "12 of 19 photos are usable" in told and not (out / "people").exists()
    columns = pq.read_table(out / "prepared.parquet")
    assert columns["outcome"].to_pylist() == [row["outcome"] for row in table]
    page = (out / "index.html").read_text()
    assert page.count(".jpg</td>") == 6 and "not_an_image" in page
    # A rejected photo stands beside its sentence.
    assert page.count('<img src="thumbnails/p') == 6 and (out / "thumbnails" / "p00.png").is_file()
    sheet = photos.decode_png((out / "sheet.png").read_bytes())
    assert sheet.shape[1] > 4 * 96 and (sheet[110:, 10:100].std() > 20)


def test_the_sheet_of_very_many_photos_shows_what_is_wrong_first_and_holds_one_picture_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "MOST_CELLS", 8)
    alive: list[weakref.ref] = []
    most = 0

    def thumbnail(identity_id):
        nonlocal most
        most = max(most, sum(each() is not None for each in alive))
        picture = np.full((96, 96, 3), 200 if identity_id.startswith("bad") else 90, np.uint8)
        alive.append(weakref.ref(picture))
        return picture

    checked = [CheckedPhoto(f"good{number:02}", "usable") for number in range(37)]
    checked += [CheckedPhoto(f"bad{number}", "rejected", "no_face", "No face.") for number in range(3)]
    results.write_results(tmp_path, checked, {}, files={}, lines={}, thumbnail=thumbnail)
    assert most <= 2
    sheet = photos.decode_png((tmp_path / "sheet.png").read_bytes())
    columns, middle = sheet.shape[1] // 102, 6 + 48
    cells = [sheet[middle + place // columns * 128, middle + place % columns * 102, 0] for place in range(8)]
    assert cells == [200] * 3 + [90] * 4 + [255], "the last says how many more there are"
    assert (tmp_path / "index.html").read_text().count('<img src="thumbnails/bad') == 3


def test_who_is_no_more_among_the_photos_leaves_no_picture(folder):
    _, out = prepare(folder)
    assert {path.name for path in (out / "people").iterdir()} == {"astronaut.png"}
    (folder / "astronaut.png").rename(folder / "other.png")
    (out / "people" / "of-another-hand.png").write_bytes(b"not of this command")
    _, out = prepare(folder)
    kept = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert kept == {"sheet.png", "thumbnails/other.png", "people/other.png", "people/of-another-hand.png"}
    assert "astronaut" not in (out / "checked.jsonl").read_text()


def test_pictures_are_never_written_where_the_photos_lie(folder):
    people = folder.rename(folder.parent / "people")
    before = {path.name: path.read_bytes() for path in people.iterdir()}
    told = CliRunner().invoke(cli, ["prepare", "--photos", str(people), "--out", str(people.parent)])
    assert isinstance(told.exception, ConfigurationError) and "choose another --out" in str(told.exception)
    assert {path.name: path.read_bytes() for path in people.iterdir()} == before


def test_a_subject_that_is_no_person_is_cut_as_the_night_cuts_it(tmp_path):
    """No face is looked for in a cat's photo; a box outside it is what turns it away."""
    found = tmp_path / "photos"
    found.mkdir()
    (found / "cat.png").write_bytes(photos.encode_png(data.chelsea()))
    (found / "identities.csv").write_text(
        'identity_id,photo,class_word,subject_box\ncat,cat.png,cat,"100,20,300,220"\nno,cat.png,cat,"900,900,990,990"\n'
    )
    told, out = prepare(found, "--size", "64")
    assert "1 of 2 photos are usable" in told
    cat, no = rows(out)
    assert cat["outcome"] == "usable" and 0.5 < float(cat["mask_share"]) < 0.8
    assert (no["outcome"], no["reason"]) == ("rejected", "subject_outside")
    assert photos.decode_png((out / "people" / "cat.png").read_bytes()).shape == (64, 64, 3)


@pytest.mark.exhaustive
def test_a_photo_that_kills_its_process_costs_itself_only(tmp_path, monkeypatch):
    found = tmp_path / "photos"
    found.mkdir()
    for number in range(17):
        (found / f"p{number:02}.jpg").write_bytes(jpeg(data.astronaut()))
    (found / "p05.jpg").write_bytes(b"deadly")
    people = read_manifest(found)
    config = NightlyConfig(faces={"backend": "deepface"})
    settings = CheckSettings.of(config, size=64, pictures=None)
    monkeypatch.setattr("faceid_core.prepare.check._start_process", start_that_dies)
    tried = {one.identity_id: one for one in check_photos(people, settings, jobs=2)}
    assert len(tried) == 17
    assert (tried["p05"].outcome, tried["p05"].reason) == ("failed", "process_died")
    assert all(one.outcome == "usable" for name, one in tried.items() if name != "p05")


def start_that_dies(trial):
    """As the pool's own start, in a process that a certain photo ends."""
    import os

    from faceid_core import photos
    from faceid_core.prepare import check as module

    whole = photos.decode
    photos.decode = lambda data, **limits: os._exit(9) if data == b"deadly" else whole(data, **limits)
    module._worker = module._Worker(trial)


def jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def test_labels_show_how_many_good_photos_are_lost_and_wrong_ones_pass(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    good = photos.encode_png(data.astronaut())
    dark = photos.encode_png((data.astronaut() * 0.2).astype("uint8"))
    (folder / "good.png").write_bytes(good)
    (folder / "dark.png").write_bytes(dark)
    labels = tmp_path / "labels.csv"
    rows = [f"{sha256_hex(good)},good,203.5,101,246.9,103.4", f"{sha256_hex(dark)},too dark,,,,"]
    labels.write_text("\n".join(["sha256,label,left_eye_x,left_eye_y,right_eye_x,right_eye_y", *rows]))
    shown, _ = prepare(folder, "--size", "128", "--no-pictures", "--labels", str(labels))
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    assert ["good", "1", "1", "0", "1", ""] in cells
    assert ["too dark", "1", "0", "0", "0", "1 badly_exposed"] in cells


def test_a_labels_file_without_labels_is_named(tmp_path):
    (tmp_path / "labels.csv").write_text("photo,label\n")
    with pytest.raises(InputContractError, match="sha256"):
        read_labels(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text("label,sha256\ngood\n")
    assert set(read_labels(tmp_path / "labels.csv")) == {""}, "a short line names no photo"


def counted(monkeypatch, *, stop_after=None):
    """Count the photos that are computed; stop by an interruption after some."""
    from faceid_core.prepare import check

    whole, computed = check.prepare_photo, []

    def prepare_photo(data, **settings):
        if stop_after is not None and len(computed) == stop_after:
            raise KeyboardInterrupt
        computed.append(len(data))
        return whole(data, **settings)

    monkeypatch.setattr(check, "prepare_photo", prepare_photo)
    return computed


def test_an_interrupted_call_keeps_its_rows_and_the_next_one_goes_on(folder, monkeypatch):
    (folder / "b.jpg").write_bytes(jpeg(data.astronaut()[:102]))
    (folder / "note.txt").write_text("text")
    out = folder.parent / "prepared"
    command = ["prepare", "--photos", str(folder), "--out", str(out), "--size", "64", "--jobs", "1"]
    with monkeypatch.context() as stopping:
        counted(stopping, stop_after=1)
        told = CliRunner().invoke(cli, command, env={"COLUMNS": "200"})
    assert told.exit_code == 130 and "2 photos are left" in told.output
    assert [(row["file"], row["outcome"]) for row in rows(out)] == [
        ("astronaut.png", "usable"), ("note.txt", "left_out")
    ]  # fmt: skip
    computed = counted(monkeypatch)
    told, _ = prepare(folder, "--size", "64", "--jobs", "1")
    # Of the two that were left one is no picture, and the first one was known.
    assert len(computed) == 2 and "1 as an earlier call found them" in told
    assert [row["outcome"] for row in rows(out)] == ["usable", "rejected", "rejected", "left_out"]
    computed.clear()
    prepare(folder, "--size", "64", "--jobs", "1")
    assert computed == []
    # Another photo under the same name, another limit or a lost picture are computed again.
    (folder / "b.jpg").write_bytes(jpeg(data.astronaut()))
    prepare(folder, "--size", "64", "--jobs", "1")
    assert len(computed) == 1
    (out / "people" / "astronaut.png").unlink()
    prepare(folder, "--size", "64", "--jobs", "1")
    assert len(computed) == 2
    prepare(folder, "--size", "64", "--jobs", "1", "--set", "faces.min_sharpness=0.09")
    assert len(computed) == 5


def test_a_known_photo_has_the_line_of_the_manifest_as_it_is_now(folder):
    manifest = folder / "identities.csv"
    manifest.write_text("identity_id,photo,class_word\nann,astronaut.png,person\n")
    prepare(folder, "--size", "64")
    manifest.write_text("identity_id,photo,class_word\nbob,text.png,person\nann,astronaut.png,person\n")
    told, out = prepare(folder, "--size", "64")
    assert "1 as an earlier call found them" in told
    assert [(row["identity_id"], row["line"]) for row in rows(out)] == [("bob", "2"), ("ann", "3")]


def test_a_photo_and_its_mask_are_read_once_each(folder, monkeypatch):
    """In S3 each read is a transfer, and a mask exchanged between two reads would be kept under the wrong digest."""
    from faceid_core.prepare import check

    mask = np.zeros((512, 512), np.uint8)
    mask[100:300, 150:350] = 255
    (folder / "mask.png").write_bytes(photos.encode_png(mask[..., None].repeat(3, axis=2)))
    (folder / "identities.csv").write_text(
        "identity_id,photo,class_word,subject_mask\ncat,astronaut.png,cat,mask.png\n"
    )
    whole, read = check.PhotoSource.read, []

    def counting(source, identity):
        read.append(identity.photo.rpartition("/")[2])
        return whole(source, identity)

    monkeypatch.setattr(check.PhotoSource, "read", counting)
    told, _ = prepare(folder, "--size", "64", "--jobs", "1")
    assert "1 of 1 photos are usable" in told and sorted(read) == ["astronaut.png", "mask.png"]


def test_there_are_as_many_processes_as_the_container_may_use_cpus(folder, monkeypatch):
    """A container with a limit of one CPU on a machine of many checks in one process."""
    from faceid_core.prepare import check

    for number in range(16):
        (folder / f"n{number:02}.png").write_bytes(b"no picture")
    monkeypatch.setattr(check, "available_cpus", lambda: 1)
    monkeypatch.setattr(check, "_check_in_pool", lambda *_: pytest.fail("more than one process"))
    told, _ = prepare(folder, "--size", "64")
    assert "1 of 18 photos are usable" in told


def test_rows_are_in_the_table_before_all_photos_are_done(folder, monkeypatch):
    out, seen = folder.parent / "prepared", []
    from faceid_core.prepare import check

    whole = check.photos.decode

    def decode(data, **limits):
        seen.append([row["identity_id"] for row in rows(out)])
        return whole(data, **limits)

    (folder / "b.png").write_bytes((folder / "astronaut.png").read_bytes())
    monkeypatch.setattr("faceid_core.faces.prepare.photos.decode", decode)
    prepare(folder, "--size", "64", "--jobs", "1")
    assert seen[0] == [] and ["astronaut"] in seen


def test_reasons_have_a_number_and_up_to_three_examples(tmp_path):
    found = tmp_path / "photos"
    found.mkdir()
    for number in range(5):
        (found / f"text{number}.png").write_bytes(b"no picture")
    (found / "[bold]good.png").write_bytes(photos.encode_png(data.astronaut()))
    (found / "gone.jpg").symlink_to(tmp_path / "nowhere")
    told, _ = prepare(found, "--size", "64", "--no-pictures")
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in told.splitlines()]
    (row,) = [each for each in cells if each[:3] == ["rejected", "not_an_image", "5"]]
    assert row[3] == "text0.png, text1.png, text2.png ..."
    assert ["usable", "", "1", "[bold]good.png", ""] in cells
    assert any(each[:4] == ["left out", "broken_link", "1", "gone.jpg"] for each in cells)
    assert "'[bold]good.png' is bold-good" in told


def test_two_settings_are_compared_on_one_folder(folder):
    told, out = prepare(folder, "--size", "64", "--against", "faces.min_face_pixels=300")
    assert "astronaut.png  usable | rejected: face_too_small" in told
    with (out / "differences.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["identity_id"], row["first"]) == ("astronaut", "usable")
    assert "Judged differently" in (out / "index.html").read_text()
    assert [row["outcome"] for row in rows(out / "against")] == ["rejected", "rejected"]
    told = CliRunner().invoke(cli, ["prepare", "--photos", str(folder), "--against", "detector"])
    assert told.exit_code == 2 and "--against" in told.output


def test_the_folder_of_the_photos_is_no_place_for_results(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    told = CliRunner().invoke(cli, ["prepare", "--photos", str(folder), "--out", str(folder)])
    assert isinstance(told.exception, ConfigurationError) and "choose another --out" in str(told.exception)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_odd_names_cost_themselves_only_and_are_no_formulas(folder):
    (folder / "=cmd|calc.png").write_bytes(b"this is not a picture")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    _, out = prepare(folder, "--faces", "deepface", "--no-pictures")
    files = {row["file"]: row["outcome"] for row in csv.DictReader((out / "prepared.csv").open())}
    assert files["'=cmd|calc.png"] == "rejected" and files["astronaut.png"] == "usable"
    manifest = folder / "identities.csv"
    manifest.write_text("identity_id,photo,class_word\nann,astronaut.png,person\nloop,loop.png,person\n")
    _, out = prepare(manifest, "--faces", "deepface", "--no-pictures")
    rows = {row["identity_id"]: row for row in csv.DictReader((out / "prepared.csv").open())}
    assert [rows[name]["outcome"] for name in ("ann", "loop")] == ["usable", "rejected"]


def test_a_folder_whose_name_is_no_utf_8_is_told_with_escapes(folder):
    odd = folder.parent / os.fsdecode(b"caf\xe9")
    folder.rename(odd)
    (odd / "identities.csv").write_text("identity_id,photo,class_word\ngone,gone.png,person\n")
    _, out = prepare(odd / "identities.csv", "--faces", "deepface", "--no-pictures", "--out", str(odd.parent / "out"))
    out = odd.parent / "out"
    (row,) = csv.DictReader((out / "prepared.csv").open())
    assert row["outcome"] == "rejected" and "caf\\xe9" in row["sentence"]
