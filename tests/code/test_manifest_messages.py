"""Manifests as other programs write them are understood or named; absurd ones are refused at once, in few words."""

from __future__ import annotations

import io
import unicodedata
import zipfile
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from faceid_core import identity, manifest_rows
from faceid_core.errors import InputContractError, PhotoRejected
from faceid_core.identity import Identity, parse_manifest, read_manifest, read_photo
from faceid_core.missing_path import why_missing
from tests.code.test_photos import encoded

HEADER = "identity_id,photo,class_word"
ROWS = {"identity_id": ["a"], "photo": ["a.jpg"], "class_word": ["person"]}


def read(data: str | bytes) -> list[Identity]:
    return parse_manifest(data if isinstance(data, bytes) else data.encode(), source="people", base="/in")


def refusal(data: str | bytes) -> str:
    with pytest.raises(InputContractError) as caught:
        read(data)
    assert len(str(caught.value)) < 10_000
    return str(caught.value)


def parquet(columns: dict, **options) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def workbook() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("a.txt", "a")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        f'{HEADER}\na, "b, c.jpg", person\n',
        f'\ufeffsep=,\r\n{HEADER}\r\na,"b, c.jpg",person\r\n',
        'Identity_ID,PHOTO, Class Word \na,"b, c.jpg",person\n',
        f',{HEADER}\n0,a,"b, c.jpg",person\n',
        f'Unnamed: 0,{HEADER}\n0,a,"b, c.jpg",person\n',
        f'__index_level_0__,{HEADER}\n7,a,"b, c.jpg",person\n',
    ],
)
def test_what_other_programs_write_is_understood(text):
    (person,) = read(text)
    assert (person.identity_id, person.photo, person.class_word) == ("a", "/in/b, c.jpg", "person")


def test_an_index_of_pandas_in_parquet_is_passed_over():
    (person,) = read(parquet(ROWS | {"__index_level_0__": [7]}))
    assert person.identity_id == "a"


def test_lines_are_counted_from_the_files_first():
    assert "line 4: class word 'Person'" in refusal(f"sep=,\n{HEADER}\na,a.jpg,person\nb,b.jpg,Person\n")


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ("identity_id\tphoto\tclass_word\na\tb\tc\n", "separated by tabs; save the file with commas"),
        ("identity_id|photo|class_word\na|b|c\n", "separated by bars"),
        ("sep=;\nidentity_id;photo;class_word\na;b;c\n", "line 2: columns are separated by semicolons"),
        ((HEADER + "\na,b,c\n").encode("utf-16"), "is not UTF-8 text but UTF-16; save the file as CSV UTF-8"),
        (f"{HEADER},\na,b.jpg,person,\n", "unknown column(s) ''"),
        (encoded(Image.new("RGB", (8, 8)), "JPEG"), "is a JPEG picture, not a manifest; name identities.csv"),
        (encoded(Image.new("RGB", (8, 8)), "WEBP"), "is a WEBP picture"),
        (workbook(), "is an Excel workbook, not a manifest; save its sheet as CSV UTF-8"),
        (archive(), "is a zip archive, not a manifest; unpack it"),
        (b"\x1f\x8b\x08" + bytes(20), "is a gzip archive"),
        ('[{"identity_id": "a"}]', "is JSON, not a manifest; save it as CSV UTF-8 or Parquet"),
        ("<!doctype html><html></html>", "is a web page or XML"),
    ],
)
def test_what_is_no_manifest_is_named(data, wanted):
    assert wanted in refusal(data)


def test_a_header_of_very_many_columns_is_refused_at_once():
    told = refusal(HEADER + "," + ",".join(f"column{n}" for n in range(100_000)) + "\n")
    assert "header names 100003 columns, at most 100" in told
    told = refusal(HEADER + "," + ",".join(f"c{n}" for n in range(60)) + "\n")
    assert "'c1'" in told and "and 40 more" in told
    wide = {f"c{n}": [1] for n in range(2_000)}
    assert "header names 2000 columns" in refusal(parquet(wide))


def test_of_very_many_bad_rows_the_first_twenty_are_told_and_counted():
    with pytest.raises(InputContractError) as caught:
        read(HEADER + "\n" + "-x,a.jpg,Person\n" * 10_000)
    told = str(caught.value)
    assert told.startswith("people has 20000 problem(s)") and told.endswith("and 19980 more")
    assert len(told) < 5_000 and len(caught.value.problems) == 20_000
    same = refusal(HEADER + "\n" + "x,a.jpg,person\n" * 10_000)
    assert "identity x is listed 10000 times (lines 2, 3, 4, 5, 6 and 9995 more)" in same


def test_more_rows_than_any_list_of_people_has(monkeypatch):
    # A column of nothing takes some bytes, however many rows it has.
    empty = pa.nulls(manifest_rows.MOST_ROWS + 1, pa.string())
    data = parquet({name: empty for name in ROWS})
    assert len(data) < 10_000 and "has 1000001 rows, at most 1000000" in refusal(data)
    monkeypatch.setattr(manifest_rows, "MOST_ROWS", 3)
    assert "line 5: is one row too many" in refusal(
        HEADER + "\n" + "".join(f"p{n},a,person\n" for n in range(5))
    )
    monkeypatch.setattr(manifest_rows, "MOST_ROW_GROUPS", 3)
    three = {name: values * 3 for name, values in ROWS.items()}
    monkeypatch.setattr(manifest_rows, "MOST_ROWS", 10)
    many = {name: values * 4 for name, values in ROWS.items()}
    assert "4 row groups" in refusal(parquet(many, row_group_size=1))
    assert "listed 3 times" in refusal(parquet(three, row_group_size=1))


def test_a_text_that_all_rows_repeat_is_not_unpacked():
    rows = 20_000
    columns = {
        "identity_id": [f"p{n}" for n in range(rows)],
        "photo": ["a.jpg"] * rows,
        "class_word": ["person"] * rows,
        "consent_ref": pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * 100_000]),
    }
    # Two gigabytes, if every row had its own.
    data = parquet(columns, store_schema=False)
    assert len(data) < 3_000_000
    assert len(read(data)) == rows
    columns["consent_ref"] = pa.DictionaryArray.from_arrays(columns["consent_ref"].indices, ["x" * 200_000])
    assert "a cell of 200000 bytes, at most 131072" in refusal(parquet(columns))


def test_parquet_of_polars_is_read():
    buffer = io.BytesIO()
    frame = pl.DataFrame(ROWS | {"consent_ref": ["form 7"], "face_box": [[1.0, 2.0, 3.0, 4.0]]})
    frame.with_columns(pl.col("class_word").cast(pl.Categorical)).write_parquet(buffer)
    (person,) = read(buffer.getvalue())
    assert (person.consent_ref, person.face_box, person.class_word) == ("form 7", (1, 2, 3, 4), "person")


def test_one_row_of_very_many_values_is_not_unpacked():
    numbers = pa.ListArray.from_arrays(
        pa.array([0, 1_000_000], pa.int32()), pa.nulls(1_000_000, pa.float64())
    )
    assert "a box of more than 100 numbers" in refusal(parquet(ROWS | {"face_box": numbers}))
    assert "photo is of type list<" in refusal(parquet(ROWS | {"photo": [["a"]]}))
    assert "subject_box is of type list<" in refusal(parquet(ROWS | {"subject_box": [[[1.0]]]}))


def test_a_manifest_of_very_many_bytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "MOST_MANIFEST_BYTES", 1024 * 1024)
    (tmp_path / "identities.csv").write_bytes(b"x" * (1024 * 1024 + 1))
    with pytest.raises(InputContractError, match="is larger than 1 MiB; cut it into several"):
        read_manifest(tmp_path)


def test_a_manifest_that_is_not_there_says_why(tmp_path):
    (tmp_path / "People.csv").write_text(HEADER)
    with pytest.raises(InputContractError, match=r"No such file.*with other capital or small letters"):
        read_manifest(tmp_path / "people.csv")


def missing(path: Path | str) -> PhotoRejected:
    with pytest.raises(PhotoRejected) as caught:
        read_photo(Identity("ann", str(path), "person", line=4))
    assert caught.value.reason == "photo_missing" and caught.value.looked_for == str(path)
    assert Path(path).stem not in str(caught.value), "the sentence goes where ids may not"
    return caught.value


NFC, NFD = (unicodedata.normalize(form, "Zoë") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("there", "looked_for", "wanted"),
    [
        (f"{NFD}.jpg", f"{NFC}.jpg", "its accents encoded differently"),
        (f"{NFC}.jpg", f"{NFD}.jpg", "its accents encoded differently"),
        (
            f"{NFD}/anna.jpg",
            f"{NFC}/anna.jpg",
            "one of its folders is there with its accents encoded differently",
        ),
        ("Anna.JPG", "anna.jpg", "the file is there with other capital or small letters"),
        ("People/anna.jpg", "people/anna.jpg", "one of its folders is there with other capital"),
        ("anna.jpeg", "anna.jpg", "a file of that name with another extension is there"),
        ("bob.jpg", "anna.jpg", "its folder is there, the file is not"),
        ("bob.jpg", "none/anna.jpg", "its folder does not exist"),
        ("bob.jpg", r"photos\anna.jpg", "it holds backslashes"),
        ("bob.jpg", r"C:\photos\anna.jpg", "a path of Windows"),
        ("bob.jpg", "~/anna.jpg", "it holds ~, which is not replaced"),
        ("bob.jpg", "$HOME/anna.jpg", "it holds a variable"),
        ("bob.jpg", "Anna%20B.jpg", "as in a web address"),
    ],
)
def test_a_photo_that_is_not_there_says_why_and_keeps_its_path_out_of_the_sentence(
    tmp_path, there, looked_for, wanted
):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_bytes(b"x")
    rejection = missing(tmp_path / looked_for)
    assert wanted in rejection.sentence and "manifest line 4" in rejection.sentence
    assert str(tmp_path) not in str(rejection)


@pytest.mark.parametrize("looked_for", ["ann.jpg", "mounted/ann.jpg", "loop.jpg"])
def test_a_link_whose_target_is_away_is_told_as_that(tmp_path, looked_for):
    (tmp_path / "ann.jpg").symlink_to("/mnt/away/ann.jpg")
    (tmp_path / "mounted").symlink_to("/mnt/away")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    assert "is a link whose target is not there" in why_missing(str(tmp_path / looked_for))
