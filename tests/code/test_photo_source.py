"""Photos in S3: read through one client for each folder; what cannot be read rejects one person."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from faceid_core.config import S3Config
from faceid_core.errors import ConfigurationError, PhotoRejected, StoreError
from faceid_core.identity import Identity
from faceid_core.run import photo_source
from faceid_core.run.open import open_run
from faceid_core.run.photo_source import PhotoSource
from faceid_core.run.reporter import LogReporter
from faceid_core.store import FolderStore, s3
from tests.end_to_end.conftest import people, small  # noqa: F401 - fixtures
from tests.end_to_end.test_inline_folder import outcomes


def source() -> PhotoSource:
    return PhotoSource(S3Config().settings(), 1_000)


def test_one_client_serves_all_photos_of_a_folder(s3_server, monkeypatch):
    bucket = s3_server.new_bucket()
    those = []
    for number in range(8):
        name = f"{'even' if number % 2 == 0 else 'odd'}/{number}.jpg"
        s3_server.client.put_object(Bucket=bucket, Key=name, Body=b"%d" % number)
        those.append(Identity(f"p{number}", f"s3://{bucket}/{name}", "person", line=number + 2))
    opened = []
    whole = photo_source.open_store
    monkeypatch.setattr(photo_source, "open_store", lambda url, s3: opened.append(url) or whole(url, s3))
    ours = source()
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ours.read, those)) == [b"%d" % number for number in range(8)]
    assert sorted(opened) == [f"s3://{bucket}/even", f"s3://{bucket}/odd"]


@pytest.mark.parametrize(
    ("there", "looked_for", "wanted"),
    [
        ("Zoe\u0308.jpg", "Zo\u00eb.jpg", "its accents encoded differently"),
        ("x.jpg", "photos\\x.jpg", "it holds backslashes"),
        (
            "x.jpg",
            "y.jpg",
            "There is no object at the address in line 7 of the manifest. Correct it or upload the photo",
        ),
    ],
)
def test_an_object_that_is_not_there_says_why_without_its_name(s3_server, there, looked_for, wanted):
    bucket = s3_server.new_bucket()
    s3_server.client.put_object(Bucket=bucket, Key=f"in/{there}", Body=b"1")
    person = Identity("p", f"s3://{bucket}/in/{looked_for}", "person", line=7)
    with pytest.raises(PhotoRejected) as caught:
        source().read(person)
    assert wanted in caught.value.sentence
    assert caught.value.looked_for == person.photo and bucket not in str(caught.value)
    assert looked_for not in str(caught.value)


def test_an_address_that_is_none_rejects_that_person_without_naming_it():
    person = Identity("p", "s3://bucket/x#1/y.jpg", "person", line=7)
    with pytest.raises(PhotoRejected) as caught:
        source().read(person)
    assert caught.value.reason == "photo_unreadable" and "line 7" in caught.value.sentence
    assert "bucket" not in caught.value.sentence


def test_a_bucket_that_does_not_answer_is_a_failure_and_names_no_address(s3_server, monkeypatch):
    """It would be told to the photo's supplier, and the run would end well, if it counted as a bad photo."""
    person = Identity("p", f"s3://{s3_server.new_bucket()}/private/ann.jpg", "person", line=7)

    def refuses(self, name):
        raise StoreError(f"cannot look at {name}: AccessDenied")

    monkeypatch.setattr(s3.S3Store, "head", refuses)
    with pytest.raises(StoreError) as caught:
        source().read(person)
    assert "line 7" in str(caught.value) and "private" not in str(caught.value)


def test_a_disk_that_fails_ends_that_persons_night_as_failed(small, people, tmp_path, monkeypatch):  # noqa: F811
    whole = Path.open

    def broken(self, *args, **kwargs):
        if self.name.startswith("ann"):
            raise OSError(errno.EIO, "Input/output error")
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", broken)
    run = open_run(small(str(tmp_path / "store"), people), LogReporter())
    run.release()
    assert outcomes(run)["ann"] == "failed"
    (ann,) = (each for each in run.outcome_reports.values() if each.identity_id == "ann")
    assert ann.stage == "admit" and "Input/output error" in ann.message and str(tmp_path) not in ann.message


def test_a_mount_that_is_gone_is_told_before_anything_is_done(small, people, tmp_path):  # noqa: F811
    for photo in people.parent.glob("*.png"):
        photo.unlink()
    store = tmp_path / "store"
    with pytest.raises(ConfigurationError, match="none of the manifest's 2 photos") as caught:
        open_run(small(str(store), people), LogReporter())
    # The screen of the machine names the path; what goes to Prefect does not.
    assert f"Looked for: {people.parent / 'ann.png'}" in str(caught.value)
    from faceid_core.errors import without_people

    told = without_people(caught.value)
    assert "none of the manifest's 2 photos" in told and "ann" not in told and str(people.parent) not in told
    assert not any(FolderStore(str(store)).list("runs"))


def test_a_manifest_in_s3_and_its_photos_are_read_from_there(s3_server, small, people, tmp_path):  # noqa: F811
    bucket = s3_server.new_bucket()
    for path in people.parent.iterdir():
        s3_server.client.upload_file(str(path), bucket, f"tonight/{path.name}")
    config = small(str(tmp_path / "store"), f"s3://{bucket}/tonight/identities.csv")
    run = open_run(config, LogReporter())
    run.release()
    assert outcomes(run) == {"ann": "None", "bob": "None"}, "nothing is wrong with anybody"
    assert all(subject.photo_digest for subject in run.subjects.values() if subject.kind == "person")
    with pytest.raises(ConfigurationError, match="there is no manifest"):
        open_run(small(str(tmp_path / "store"), f"s3://{bucket}/tonight/other.csv"), LogReporter())
