"""What a form asks for, and what a run is called and linked to, without a Prefect server."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from faceid_core.config import NightlyConfig, changed
from faceid_core.errors import ConfigurationError
from faceid_core.identity import validate_class_word, validate_identity_id
from faceid_core.publish.pages import report_address
from faceid_core.run.identities import OnePerson
from faceid_core.run.open import require_no_training
from faceid_core.store import open_store


def one(**changes) -> OnePerson:
    return OnePerson(**({"identity_id": "p-17", "photo": "s3://in/p-17.jpg"} | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"identity_id": "../etc"},
        {"identity_id": "p\n"},
        {"identity_id": ""},
        {"photo": ""},
        {"photo": "a\x00.png"},
        {"class_word": "Young Man"},
        {"class_word": "man\n"},
        {"face_box": "1,2,3"},
        {"face_box": "5,5,1,1"},
        {"consent_until": "soon"},
        {"nickname": "Ann"},
    ],
)
def test_nonsense_about_a_person_is_refused(changes):
    with pytest.raises(ValidationError):
        one(**changes)


def test_what_the_form_accepts_is_what_a_manifest_accepts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    person = one(photo="p.png", class_word="young man", face_box="1, 2, 30, 40", consent_until="2027-01-31")
    identity = person.identity()
    assert validate_identity_id(identity.identity_id) and validate_class_word(identity.class_word)
    assert identity.photo == str(tmp_path / "p.png") and identity.face_box == (1, 2, 30, 40)
    assert identity.consent_until.isoformat() == "2027-01-31"
    assert one().identity().photo == "s3://in/p-17.jpg"


def night_at(store: str, url: str, **run):
    config = NightlyConfig(store=store, run=run)
    return SimpleNamespace(config=config, store=open_store(url))


def test_the_report_is_linked_to_where_it_can_be_seen(tmp_path, monkeypatch):
    index = "runs/20261123-nightly-1a/index.html"
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    folder = night_at(str(tmp_path), tmp_path.as_uri())
    assert report_address(folder, index) == f"{tmp_path.as_uri()}/{index}"
    shown = night_at(str(tmp_path), tmp_path.as_uri(), report_url="https://people.example/store/")
    assert report_address(shown, index) == f"https://people.example/store/{index}"
    bucket = night_at("s3://b/some/prefix", "s3://b/some/prefix")
    assert report_address(bucket, index) == (
        "https://s3.console.aws.amazon.com/s3/object/b?prefix=some%2Fprefix%2Fruns%2F20261123-nightly-1a%2Findex.html"
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    bucket = night_at("s3://b/some/prefix", "s3://b/some/prefix")
    assert report_address(bucket, index) == f"s3://b/some/prefix/{index}"


def test_an_evaluation_may_be_forced_from_the_pictures_on_only():
    for run in ({"force": True}, {"force": True, "from_stage": "personalize"}):
        with pytest.raises(ConfigurationError, match="generate or score"):
            require_no_training(NightlyConfig(run=run))
    require_no_training(NightlyConfig(run={"force": True, "from_stage": "generate"}))
    require_no_training(NightlyConfig())


def test_a_report_address_is_one_that_a_browser_opens():
    with pytest.raises(ConfigurationError, match="report_url"):
        changed(NightlyConfig(), {"run.report_url": "javascript:alert(1)"}, source="form")
