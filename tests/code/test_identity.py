"""The identity manifest: what is accepted, and that everything wrong with it is said at once."""

import datetime
import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faceid_core.errors import ConfigurationError, InputContractError, PhotoRejected
from faceid_core.identity import Identity, parse_manifest, read_manifest, read_photo, validate_identity_id

HEADER = "identity_id,photo,class_word"


def manifest(tmp_path, text, name="identities.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(tmp_path, text):
    with pytest.raises(InputContractError) as caught:
        read_manifest(manifest(tmp_path, text))
    return caught.value.problems


def test_full_row_is_read_with_types_and_line(tmp_path):
    digest = "AB" * 32
    text = (
        "\ufeffphoto,identity_id,class_word,sha256,consent_ref,consent_until,face_box\r\n"
        "\r\n"
        f'in/p1.jpg,p1,young man,{digest},"form 7, page 2",2027-02-28,"1,2.5,30,40"\r\n'
        " s3://bucket/a b.jpg , p2 ,person,,,,\r\n"
    )
    first, second = read_manifest(manifest(tmp_path, text))
    assert first == Identity(
        identity_id="p1",
        photo=str(tmp_path / "in/p1.jpg"),
        class_word="young man",
        sha256=digest.lower(),
        consent_ref="form 7, page 2",
        consent_until=datetime.date(2027, 2, 28),
        face_box=(1.0, 2.5, 30.0, 40.0),
        line=3,
    )
    assert (second.photo, second.identity_id, second.sha256, second.line) == (
        "s3://bucket/a b.jpg", "p2", None, 4,
    )  # fmt: skip


def test_all_problems_at_once_with_line_numbers(tmp_path):
    found = problems(
        tmp_path,
        "identity_id,photo,class_word,sha256,consent_until,face_box\n"
        '"a","x.jpg","person","","",""\n'
        "../b,x.jpg,person,,,\n"
        "c,,Person,,,\n"
        "d,http://x/y.jpg,person,12,2027-02-30,\n"
        'e,y.jpg,person,,,"9,9,1,1"\n'
        "a,other.jpg,person,,,\n"
        "f,z.jpg\n"
        "g,z.jpg,person,,,\n"
        "g,z.jpg,person,,,\n",
    )
    lines = [int(problem.split(":")[0].removeprefix("line ")) for problem in found]
    assert lines == [3, 4, 4, 5, 5, 5, 6, 7, 8, 10]
    text = "\n".join(found)
    cells = (
        "'../b'",
        "photo is empty",
        "'Person'",
        "http://x/y.jpg",
        "'12'",
        "2027-02-30",
        "'9,9,1,1'",
        "2 cells",
    )
    twice = ("identity a has 2 photos (lines 2, 7)", "identity g is listed 2 times (lines 9, 10)")
    assert [wanted for wanted in cells + twice if wanted not in text] == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "is empty"),
        (HEADER + "\n", "names no identity"),
        ("identity_id;photo;class_word\na;b;c\n", "semicolons"),
        ("identity_id,photo,klass\na,b,c\n", "unknown column(s) 'klass'"),
        ("identity_id,photo,klass\na,b,c\n", "missing column(s) class_word"),
        (HEADER + ",photo\na,b,c,d\n", "photo named twice"),
        (HEADER + '\na,"b.jpg,person\n', "quotation mark"),
        (HEADER.encode() + b"\na,b.jpg,person\nb,J\xe9.jpg,person\n", "line 3: is not UTF-8"),
        (HEADER.encode("utf-16"), "line 1: is not UTF-8"),
        (HEADER + "\na,b\0c.jpg,person\n", "line 2"),
    ],
)
def test_file_that_cannot_be_a_manifest(tmp_path, text, wanted):
    assert wanted in "\n".join(problems(tmp_path, text))


def test_line_numbers_survive_cells_with_line_breaks(tmp_path):
    text = HEADER + ',consent_ref\na,a.jpg,person,"two\nlines"\n-b,b.jpg,person,\n'
    assert problems(tmp_path, text)[0].startswith("line 4:")


@pytest.mark.parametrize("good", ["a", "A.b_c-9", "_x", "0" * 64])
def test_identity_ids_that_are_allowed(good):
    assert validate_identity_id(good) == good


@pytest.mark.parametrize("bad", ["", ".", "..", ".a", "-rf", "a/b", "a b", "é", "a\n", "٣", "0" * 65])
def test_identity_ids_that_are_not(bad):
    with pytest.raises(ConfigurationError):
        validate_identity_id(bad)


def test_parquet_gives_what_csv_gives(tmp_path):
    path = tmp_path / "people.parquet"
    table = pa.table(
        {
            "identity_id": pa.array(["p1", "7"]).dictionary_encode(),
            "photo": ["a.jpg", "/data/b.jpg"],
            "class_word": ["man", "woman"],
            "consent_until": [datetime.date(2027, 1, 1), None],
            "face_box": [[1.0, 2.0, 3.0, 4.0], None],
        }
    )
    pq.write_table(table, path)
    first, second = read_manifest(path)
    assert first.photo == str(tmp_path / "a.jpg") and first.face_box == (1.0, 2.0, 3.0, 4.0)
    assert first.consent_until == datetime.date(2027, 1, 1) and second.consent_until is None
    assert second.photo == "/data/b.jpg" and second.line == 2
    assert not first.consent_expired(datetime.date(2027, 1, 1))
    assert first.consent_expired(datetime.date(2027, 1, 2)) and not second.consent_expired(datetime.date.max)
    pq.write_table(table.append_column("age", pa.array([1, 2])), path)
    with pytest.raises(InputContractError, match=r"unknown column.*age"):
        read_manifest(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputContractError, match="Parquet"):
        read_manifest(path)


def test_folder_of_photos(tmp_path):
    for name in ("b.JPG", "a.png", "phone.heic", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub.jpg").mkdir()
    people = read_manifest(tmp_path, class_word="woman")
    # A format that will be refused still counts: its person is to be rejected by name, not forgotten.
    assert [person.identity_id for person in people] == ["a", "b", "phone"]
    assert {person.class_word for person in people} == {"woman"}
    assert read_photo(people[0]) == b"x"
    (tmp_path / "a.jpg").write_bytes(b"y")
    (tmp_path / "two words.jpg").write_bytes(b"y")
    (tmp_path / "Zoë.jpg").write_bytes(b"y")
    (tmp_path / "李.jpg").write_bytes(b"y")
    (tmp_path / "no ending").write_bytes(b"\xff\xd8\xff")
    people = {person.identity_id: Path(person.photo).name for person in read_manifest(tmp_path)}
    of_digest = next(name for name in people if name.startswith("photo-"))
    assert people == {
        "a-jpg": "a.jpg", "a-png": "a.png", "b": "b.JPG", "phone": "phone.heic", "two-words": "two words.jpg",
        "Zoe": "Zoë.jpg", "no-ending": "no ending", of_digest: "李.jpg",
    }  # fmt: skip


def test_folder_with_a_manifest_is_read_through_it(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    manifest(tmp_path, HEADER + "\nq,a.jpg,person\n")
    assert [person.identity_id for person in read_manifest(tmp_path)] == ["q"]
    (tmp_path / "identities.parquet").write_bytes(b"")
    with pytest.raises(InputContractError, match="both"):
        read_manifest(tmp_path)


def test_manifest_in_s3_names_photos_in_s3_only():
    text = HEADER + "\na,in/a.jpg,person\nb,s3://other/b.jpg,person\n"
    people = parse_manifest(
        text.encode(), source="s3://bucket/night/identities.csv", base="s3://bucket/night"
    )
    assert [person.photo for person in people] == ["s3://bucket/night/in/a.jpg", "s3://other/b.jpg"]
    for photo in ("/etc/passwd", "../../x.jpg"):
        with pytest.raises(InputContractError, match="in S3 only"):
            parse_manifest(f"{HEADER}\na,{photo},person\n".encode(), source="m", base="s3://bucket/night")


@pytest.mark.parametrize(
    "photo", ["s3://b/x#1/y.jpg", "s3://b/x?/y.jpg", "s3://b?x/y.jpg", "s3://b/x//y.jpg", "s3://[b/y.jpg"]
)
def test_an_s3_address_that_no_store_opens_is_told_with_its_line(photo):
    text = f"{HEADER}\na,s3://b/x y/z#1?.jpg,person\nb,{photo},person\n"
    with pytest.raises(InputContractError) as caught:
        parse_manifest(text.encode(), source="m", base="/")
    (problem,) = caught.value.problems
    assert problem.startswith(f"line 3: photo '{photo}' cannot be read") and "copy the photo" in problem
    with pytest.raises(InputContractError, match=r"line 2: photo 's3://b/#1/y.jpg'"):
        parse_manifest(f"{HEADER}\na,#1/y.jpg,person\n".encode(), source="m", base="s3://b")


def test_missing_manifest_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_manifest(tmp_path / "none.csv")


def rejection(identity, **limits):
    with pytest.raises(PhotoRejected) as caught:
        read_photo(identity, **limits)
    return caught.value


def test_reading_a_photo(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345")
    digest = hashlib.sha256(b"12345").hexdigest()
    assert read_photo(Identity("a", str(path), "person", sha256=digest), max_bytes=5) == b"12345"
    large = rejection(Identity("a", str(path), "person"), max_bytes=4)
    assert (large.reason, large.threshold) == ("too_many_bytes", 4)
    assert rejection(Identity("a", str(path), "person", sha256="0" * 64)).reason == "digest_mismatch"
    missing = rejection(Identity("a", str(tmp_path / "none.jpg"), "person", line=9))
    assert missing.reason == "photo_missing" and "line 9" in missing.sentence
    assert str(tmp_path) not in missing.sentence
    assert rejection(Identity("a", str(tmp_path), "person")).reason == "photo_missing"
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    assert rejection(Identity("a", str(pipe), "person")).reason == "photo_missing"


def test_a_parquet_file_with_damaged_text_is_refused(tmp_path):
    path = tmp_path / "identities.parquet"
    rows = {"identity_id": ["qqqq"], "photo": ["a.jpg"], "class_word": ["person"]}
    pq.write_table(pa.table(rows), path, compression="none", use_dictionary=False, write_statistics=False)
    path.write_bytes(path.read_bytes().replace(b"qqqq", b"q\xef\xffq"))
    with pytest.raises(InputContractError, match="cannot be read as Parquet"):
        read_manifest(path)
