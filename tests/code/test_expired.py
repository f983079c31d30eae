"""Consents that have ended: who is listed, who is erased after the grace period, and who is kept."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from faceid_core.config import changed
from faceid_core.errors import ConfigurationError
from faceid_core.evaluate.metric_rows import MetricRows
from faceid_core.publish.publish import publish
from faceid_core.store import IdentitySecret, is_erased, open_store
from faceid_core.store.layout import identity_scope, tombstone
from faceid_core.store.tombstone import SWEPT, Receipt, moment
from faceid_core.tables import Tables
from faceid_core.upkeep import expired
from faceid_core.upkeep.erase import WrittenMeanwhile
from faceid_core.upkeep.expired import erase_expired, expired_consents
from flows.cli import cli
from tests.conftest import TEST_SECRET
from tests.helpers.pretend_night import pretend_config, pretend_night, write_manifest

SECRET = IdentitySecret(bytes.fromhex(TEST_SECRET))
PEOPLE = [f"person-{number:06}" for number in range(5)]
TODAY = dt.datetime.now(dt.UTC).date()


def write_consents(manifest, *days_ago: int | None) -> None:
    """Give each person of the manifest a last day of consent so many days ago, or none; a sixth was in no run."""
    lines = ["identity_id,photo,class_word,consent_until"]
    for name, days in zip([*PEOPLE, "person-000005"], [*days_ago, 500], strict=True):
        until = "" if days is None else TODAY - dt.timedelta(days=days)
        lines.append(f"{name},{name.removeprefix('person-')}.png,person,{until}")
    manifest.write_text("\n".join(lines) + "\n")


@pytest.fixture
def filled(tmp_path):
    """A store with results of five people, and its configuration."""
    config = pretend_config(str(tmp_path / "store"), write_manifest(tmp_path / "people", 5))
    pretend_night(config)
    write_consents(tmp_path / "people" / "identities.csv", 40, 31, 30, -1, None)
    return changed(config, {"consent.erase_after_days": 30}, source="test"), open_store(config.store)


def held(store) -> set[str]:
    return {name for name in PEOPLE if list(store.list(f"{identity_scope(SECRET.identity_key(name))}/"))}


def erase(config, store, **more):
    """Erase all who are found."""
    return erase_expired(config, store, SECRET, expired_consents(config, store, SECRET), **more).receipts


def test_people_are_erased_only_after_the_grace_period(filled):
    config, store = filled
    found = {each.identity_id: (each.days, each.due) for each in expired_consents(config, store, SECRET)}
    assert found == {PEOPLE[0]: (40, True), PEOPLE[1]: (31, True), PEOPLE[2]: (30, False)}
    receipts = erase(config, store, longest_lease=0.0)
    assert [each.identity_key for each in receipts] == [SECRET.identity_key(name) for name in PEOPLE[:2]]
    assert {each.state for each in receipts} == {"complete"} and all(each.objects for each in receipts)
    assert held(store) == set(PEOPLE[2:])
    assert all(is_erased(store, SECRET.identity_key(name)) for name in PEOPLE[:2])
    assert erase(config, store) == [], "nothing is left to do"
    assert [each.identity_id for each in expired_consents(config, store, SECRET)] == [PEOPLE[2]]


def test_people_of_whom_only_rows_are_left_are_found_and_erased(tmp_path, monkeypatch):
    """A collection removed their unused results, or every run refused them: their ids and scores stand in the tables."""
    monkeypatch.setenv("FACEID_IDENTITY_SECRET", TEST_SECRET)
    monkeypatch.setattr("faceid_core.publish.scores.read_scores", lambda _: MetricRows())
    monkeypatch.setattr("faceid_core.publish.pages._write_page", lambda *_: False)
    config = pretend_config(str(tmp_path / "store"), write_manifest(tmp_path / "people", 5))
    run = pretend_night(config)
    run.finish()
    publish(run)
    write_consents(tmp_path / "people" / "identities.csv", 40, -1, None, None, None)
    store = open_store(config.store)
    store.purge(f"{identity_scope(SECRET.identity_key(PEOPLE[0]))}/")
    config = changed(config, {"consent.erase_after_days": 30}, source="test")
    assert [each.identity_id for each in expired_consents(config, store, SECRET)] == [PEOPLE[0]]
    erase(config, store, longest_lease=0.0)
    rows = Tables(store).read("identity_outcomes")
    assert PEOPLE[0] not in rows["identity_id"].to_pylist() and PEOPLE[1] in rows["identity_id"].to_pylist()
    assert expired_consents(config, store, SECRET) == []


def test_an_erasure_that_waited_and_is_not_complete_is_told(filled, monkeypatch):
    config, store = filled
    real = expired.erase
    monkeypatch.setattr(expired, "erase", lambda *given, **more: replace(real(*given, **more), state=SWEPT))
    erased = erase_expired(config, store, SECRET, expired_consents(config, store, SECRET), longest_lease=0.0)
    assert erased.unfinished == {SECRET.identity_key(name) for name in PEOPLE[:2]}


def test_without_the_key_they_are_only_listed(filled):
    config, store = filled
    config = changed(config, {"consent.erase_after_days": None}, source="test")
    assert [each.due for each in expired_consents(config, store, SECRET)] == [False] * 3
    assert erase(config, store) == [] and held(store) == set(PEOPLE)


def test_too_many_at_once_are_taken_for_a_mistake(filled):
    config, store = filled
    strict = changed(config, {"consent.erase_at_most": 1}, source="test")
    with pytest.raises(ConfigurationError, match=r"2 people .*erase_at_most is 1: none was erased"):
        erase(strict, store)
    assert held(store) == set(PEOPLE)


def test_a_consent_that_is_renewed_meanwhile_keeps_its_person(filled, tmp_path, monkeypatch):
    config, store = filled
    real, said = expired.erase, []

    def renewing(store, secret, identity_id, **more):
        write_consents(tmp_path / "people" / "identities.csv", 40, -365, 30, -1, None)
        return real(store, secret, identity_id, **more)

    monkeypatch.setattr(expired, "erase", renewing)
    (receipt,) = erase(config, store, longest_lease=0.0, report=said.append)
    assert receipt.identity_key == SECRET.identity_key(PEOPLE[0]) and held(store) == set(PEOPLE[1:])
    assert f"{SECRET.identity_key(PEOPLE[1])}: the consent was renewed meanwhile; not erased" in said
    assert not [line for line in said if "person-" in line]


def test_an_erasure_that_broke_off_is_gone_on_with_and_costs_the_others_nothing(filled, monkeypatch):
    config, store = filled
    real, said, first = expired.erase, [], SECRET.identity_key(PEOPLE[0])

    def breaks_off(store, secret, identity_id, **more):
        if identity_id == PEOPLE[0]:
            store.put_if_absent(tombstone(first), Receipt(first, moment()).to_bytes())
            raise WrittenMeanwhile("written meanwhile")
        return real(store, secret, identity_id, **more)

    monkeypatch.setattr(expired, "erase", breaks_off)
    due = expired_consents(config, store, SECRET)
    erased = erase_expired(config, store, SECRET, due, longest_lease=0.0, report=said.append)
    (receipt,) = erased.receipts
    assert receipt.identity_key == SECRET.identity_key(PEOPLE[1]) and erased.unfinished == {first}
    assert [line for line in said if line.startswith(f"{first}: the erasure is not complete")]
    assert held(store) == {PEOPLE[0], *PEOPLE[2:]}
    monkeypatch.setattr(expired, "erase", real)
    again = expired_consents(config, store, SECRET)
    assert [each.identity_id for each in again] == [PEOPLE[2]], "the person is refused already"
    (receipt,) = erase_expired(config, store, SECRET, again).receipts
    assert receipt.identity_key == first and held(store) == set(PEOPLE[2:])


def test_only_those_who_were_shown_are_erased(filled, tmp_path):
    config, store = filled
    shown = expired_consents(config, store, SECRET)
    write_consents(tmp_path / "people" / "identities.csv", 40, 31, 90, 90, 90)
    receipts = erase_expired(config, store, SECRET, shown, longest_lease=0.0).receipts
    assert {each.identity_key for each in receipts} == {SECRET.identity_key(name) for name in PEOPLE[:2]}
    assert held(store) == set(PEOPLE[2:])


def test_the_command_lists_asks_and_prints_receipts(filled, tmp_path):
    config, store = filled
    file = tmp_path / "run.json"
    file.write_text(config.model_dump_json())

    def command(*more: str, answer: str = ""):
        return CliRunner().invoke(cli, ["erase-expired", "--config", str(file), *more], input=answer)

    listed = command("--dry-run")
    assert listed.exit_code == 0 and "consents that ended: 3; more than 30 days ago: 2" in listed.output
    assert f"{PEOPLE[2]} ({SECRET.identity_key(PEOPLE[2])}): consent ended 30 days ago\n" in listed.output
    assert command(answer="n\n").exit_code == 3 and held(store) == set(PEOPLE)
    done = command("--yes", "--no-wait")
    assert done.exit_code == 0, done.output
    receipts = json.loads(done.stdout)
    assert {each["state"] for each in receipts} == {"swept"} and held(store) == set(PEOPLE[2:])
    assert not Tables(store).read("identity_outcomes").num_rows
