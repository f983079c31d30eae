"""Photos in S3: read through one client for each folder; what cannot be read rejects one person."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from faceid_core.config import S3Config
from faceid_core.errors import PhotoRejected
from faceid_core.identity import Identity
from faceid_core.night import photo_source
from faceid_core.night.photo_source import PhotoSource


def source() -> PhotoSource:
    return PhotoSource(S3Config().model_dump(), 1_000)


def test_one_client_serves_all_photos_of_a_folder(s3_server, monkeypatch):
    bucket = s3_server.new_bucket()
    people = []
    for number in range(8):
        name = f"{'even' if number % 2 == 0 else 'odd'}/{number}.jpg"
        s3_server.client.put_object(Bucket=bucket, Key=name, Body=b"%d" % number)
        people.append(Identity(f"p{number}", f"s3://{bucket}/{name}", "person", line=number + 2))
    opened = []
    whole = photo_source.open_configured_store
    monkeypatch.setattr(
        photo_source, "open_configured_store", lambda url, s3: opened.append(url) or whole(url, s3)
    )
    ours = source()
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ours.read, people)) == [b"%d" % number for number in range(8)]
    assert sorted(opened) == [f"s3://{bucket}/even", f"s3://{bucket}/odd"]


def test_an_address_that_is_none_rejects_that_person_without_naming_it():
    person = Identity("p", "s3://bucket/x#1/y.jpg", "person", line=7)
    with pytest.raises(PhotoRejected) as caught:
        source().read(person)
    assert caught.value.reason == "photo_unreadable" and "line 7" in caught.value.sentence
    assert "bucket" not in caught.value.sentence
