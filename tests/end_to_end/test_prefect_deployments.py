"""On a real Prefect server: the deployments and their forms, and the runs that somebody starts by hand."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from faceid_core.config import NightlyConfig, changed
from faceid_core.errors import ConfigurationError, StoreError
from faceid_core.run.identities import OnePerson
from faceid_core.run.lookup import lookup_stage
from faceid_core.run.records import read_status, run_ids
from faceid_core.store import RunLease, initialize, is_erased, open_store
from faceid_core.store.keys import sha256_hex
from faceid_core.store.secret import IdentitySecret
from faceid_core.tables import Tables
from tests.helpers.replaced import replace_everywhere

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client(prefect_server):
    """A client of the server."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


def switch_on_the_night(client, deployment):
    """The file names no models, and would run the miniature on people's photos, so its schedule is off."""
    (scheduled,) = deployment.schedules
    assert (scheduled.schedule.cron, scheduled.schedule.timezone) == ("0 22 * * *", "Europe/Berlin")
    assert not scheduled.active
    client.update_deployment_schedule(deployment.id, scheduled.id, active=True)


def test_the_file_of_deployments_says_what_serve_offers(client, monkeypatch):
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.testing.cli import invoke_and_assert

    from flows.deployments import (
        OF_POOL,
        OFFERS,
        ONE_AT_A_TIME,
        TAG,
        deployments,
        refuse_those_of_pools,
        scheduled_twice,
    )

    client.create_work_pool(WorkPoolCreate(name="faceid", type="process"))
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("FACEID_STORE", "s3://bucket/nights")
    monkeypatch.setenv("FACEID_IDENTITIES", "/srv/identities.csv")
    invoke_and_assert(
        ["--no-prompt", "deploy", "--all", "--prefect-file", "infra/prefect.yaml"], expected_code=0
    )
    there = {each.name: each for each in client.read_deployments()}
    served = {each.name: each for each in deployments(NightlyConfig(), "0 22 * * *")}
    with pytest.raises(ConfigurationError, match="no cron line"):
        deployments(NightlyConfig(), "at ten")
    with pytest.raises(ConfigurationError, match=r"run\.date is for one run"):
        deployments(NightlyConfig.model_validate({"run": {"date": "2026-11-20"}}))
    try:
        assert set(served) == {offer.name for offer in OFFERS}
        assert set(there) == {f"{offer.name}{OF_POOL}" for offer in OFFERS}, "names of their own"
        for offer in OFFERS:
            deployed, offered = there[f"{offer.name}{OF_POOL}"], served[offer.name]
            assert deployed.entrypoint == offered.entrypoint == offer.entrypoint
            assert deployed.tags == offered.tags == [TAG, *offer.tags]
            assert deployed.description == offered.description and deployed.description
            assert deployed.global_concurrency_limit.limit == ONE_AT_A_TIME.limit == 1
            strategy = deployed.concurrency_options.collision_strategy
            assert strategy == ONE_AT_A_TIME.collision_strategy == "ENQUEUE"
            assert deployed.enforce_parameter_schema, "nonsense is refused before a run starts"
            assert deployed.parameters.keys() == offered.parameters.keys()
            lines = [[each.schedule.cron for each in made.schedules] for made in (deployed, offered)]
            assert lines[0] == lines[1] == {"nightly": ["0 22 * * *"], "erase-expired-consent": ["0 12 * * *"]}.get(
                offer.name, []
            )
            if "config" in deployed.parameters:
                config = NightlyConfig.model_validate(deployed.parameters["config"])
                assert config.store == "s3://bucket/nights" and config.identities == "/srv/identities.csv"
                patient = NightlyConfig.model_validate(offered.parameters["config"]).run
                if offer.name == "erase-expired-consent":
                    continue
                assert config.run.on_busy == patient.on_busy == "wait"
                limit = 240.0 if offer.name == "nightly" else None
                assert config.run.busy_wait_minutes == patient.busy_wait_minutes == limit
        switch_on_the_night(client, there["nightly-pool"])

        # Both on one server: serve replaces none of these, and says that the run would start twice.
        refuse_those_of_pools(client, list(served.values()))
        assert [line.split()[0] for line in scheduled_twice(client, list(served.values()))] == [
            "nightly", "erase-expired-consent",
        ]  # fmt: skip
        of_pool = there["nightly-pool"]
        client.create_deployment(of_pool.flow_id, "nightly", work_pool_name="faceid")  # as earlier versions named it
        with pytest.raises(ConfigurationError, match=r"belongs to the work pool 'faceid'.*delete nightly/nightly"):
            refuse_those_of_pools(client, list(served.values()))
        assert client.read_deployment_by_name("nightly/nightly").work_pool_name == "faceid"
        client.delete_deployment(client.read_deployment_by_name("nightly/nightly").id)
    finally:
        for deployed in there.values():
            client.delete_deployment(deployed.id)


def test_every_field_of_every_form_is_described(prefect_server):
    from flows.deployments import OFFERS

    def undescribed(schema: dict, definitions: dict, path: str):
        for name, field in schema.get("properties", {}).items():
            here = f"{path}.{name}"
            if not field.get("description"):
                yield here
            reference = field.get("$ref") or next((p["$ref"] for p in field.get("allOf", ())), "")
            if reference:
                yield from undescribed(definitions[reference.rsplit("/", 1)[1]], definitions, here)

    for offer in OFFERS:
        schema = offer.flow.parameters.model_dump()
        sections = schema["definitions"]
        for name, field in schema["properties"].items():
            reference = field.get("$ref") or field["then"]["$ref"]
            section = sections[reference.rsplit("/", 1)[1]]
            assert section.get("description"), name
            assert not list(undescribed(section, sections, name))
            assert not list(undescribed(field, sections, name))


def test_the_form_shows_a_dozen_fields_first_and_the_server_checks_them_all(client):
    from flows.form import FIRST

    nightly = register(client, "")
    form = nightly.parameter_openapi_schema["properties"]["config"]

    def shown(schema: dict, path: str = ""):
        for name, field in sorted(schema["properties"].items(), key=lambda item: item[1]["position"]):
            inner = f"{path}{name}"
            yield from shown(field, f"{inner}.") if "properties" in field else [inner]

    assert tuple(shown(form)) == FIRST and len(FIRST) == 12
    asked = NightlyConfig(store="elsewhere").model_dump(mode="json")
    run = client.create_flow_run_from_deployment(nightly.id, parameters={"config": asked})
    assert run.parameters["config"] == asked, "keys that the form does not show keep their values"
    # A field that is shown, two that are not, and a key that does not exist.
    for path, wrong in (
        ("generate.seeds", 0), ("execution.attempts", 0), ("base_model.precision", "float17"), ("run.speed", 1),
    ):  # fmt: skip
        section, _, name = path.partition(".")
        changes = {"config": asked | {section: asked[section] | {name: wrong}}}
        with pytest.raises(Exception, match=r"409 Conflict|Validation failed") as refused:
            client.create_flow_run_from_deployment(nightly.id, parameters=changes)
        assert str(wrong) in refused.value.response.text or name in refused.value.response.text


def artifacts(client, key: str) -> list:
    return [each for each in client.read_artifacts(limit=200) if each.key == key]


def names(client) -> list[str]:
    return [run.name for run in client.read_flow_runs(limit=200)]


def test_by_hand_one_person_and_an_evaluation(small, people, tmp_path, client, monkeypatch):
    from flows.manual_runs import evaluate_only, personalize_one
    from flows.nightly import nightly
    from tasks.stage_tasks import lookup

    config = small(str(tmp_path / "store"), people, executor="inline")
    store = open_store(str(tmp_path / "store"))
    first = nightly(config, return_state=True)
    assert first.is_completed() and "2 done" in first.message
    (run_id,) = run_ids(store)
    date = f"{run_id[:4]}-{run_id[4:6]}-{run_id[6:8]}"
    assert f"small-{date}-miniature-2" in names(client)
    assert {artifact.data for artifact in artifacts(client, "progress")} == {100.0}
    assert not artifacts(client, "against-last-run"), "there was no run before"
    (report,) = artifacts(client, "report")
    assert f"{tmp_path.as_uri()}/store/runs/{run_id}/index.html" in report.data

    # Asked for again by its date, the run is named and nothing is done.
    dated = nightly(changed(config, {"run.date": date}, source="test"), return_state=True)
    assert dated.name == "Cached" and f"run {run_id} of {date} is complete" in dated.message
    assert run_ids(store) == [run_id]

    # The same person by hand has everything already; the run that is asked again survives the store's hiccup.
    ann = OnePerson(identity_id="ann", photo=str(people.parent / "ann.png"), class_word="person")
    alone = personalize_one(ann, config, return_state=True)
    assert alone.is_completed() and "1 cached; nothing was recomputed" in alone.message
    assert f"personalize-one-{date}-miniature-1" in names(client)
    assert Tables(store).promoted() == {"small": run_id}, "one person by hand is no current run"
    hiccups = []

    def hiccup(run, stage, **more):
        if not hiccups:
            hiccups.append(stage)
            raise StoreError("the store is away for a moment")
        return lookup_stage(run, stage, **more)

    with monkeypatch.context() as patch:
        replace_everywhere(patch, lookup_stage, hiccup)
        patch.setattr(lookup, "retry_delay_seconds", [0.0])
        again = nightly(config, return_state=True)
    assert again.is_completed() and "2 cached" in again.message and hiccups == ["detect"]
    (against,) = artifacts(client, "against-last-run")
    rows = {row["figure"]: row for row in json.loads(against.data)}
    assert (rows["identity"]["people"], rows["identity"]["difference"], rows["identity"]["verdict"]) == (2, "+0.000", "")

    # Another grid for identities with tokens; none is trained, and those without tokens are named.
    people.write_text(people.read_text() + "cyd,bob.png,person\n")
    changes = {"generate": {"seeds": 1}, "score": {"metrics": ["identity", "concepts"]}}
    other = small(config.store, people, executor="inline", run={"max_failed_share": 0.5}, **changes)
    state = evaluate_only(other, return_state=True)
    assert state.is_completed(), state.message
    record = next(
        read_status(store, run) for run in run_ids(store) if "evaluate-only" in run
    )
    assert record["outcomes"] == {
        "done": 2, "cached": 0, "rejected": 0, "refused": 0, "failed": 0, "not_reached": 1,
    }  # fmt: skip
    assert not {"detect", "parse", "mask", "personalize"} & set(record["computed"])
    cyd = next(person for person in record["people"] if person["outcome"] == "not_reached")
    assert f"{cyd['identity_key']} not_reached in detect: no_tokens" in state.message
    strict = small(config.store, people, executor="inline", **changes)
    assert evaluate_only(strict, return_state=True).is_failed(), "a third of the people is above the limit"


def test_a_night_that_waits_for_its_store_says_so_and_is_refused_at_its_deadline(
    small, people, tmp_path, client, monkeypatch
):
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.logging.handlers import APILogHandler

    from flows.nightly import nightly

    monkeypatch.setattr("faceid_core.store.lease._LONGEST_POLL_SECONDS", 0.2)
    patient = {"on_busy": "wait", "busy_wait_minutes": 0.01}
    config = small(str(tmp_path / "store"), people, executor="inline", run=patient)
    store = open_store(str(tmp_path / "store"))
    with RunLease.acquire(store, "20261125-by-hand-a"):
        state = nightly(config, return_state=True)
    assert state.is_failed() and "run 20261125-by-hand-a on " in state.message
    assert "run.busy_wait_minutes is 0.01" in state.message and not run_ids(store)
    (run,) = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)
    states = {each.name: each.message for each in client.read_flow_run_states(run.id)}
    assert "waiting for run 20261125-by-hand-a on " in states["WaitingForStore"]
    APILogHandler().flush()
    assert any("waiting for run 20261125-by-hand-a" in each.message for each in client.read_logs(limit=200))


def test_a_run_that_says_it_waits_keeps_its_deployments_slot(client):
    """What `tasks.prefect_view` does to a run's state, as a worker's run goes through it."""
    from prefect import flow
    from prefect.states import Completed, Pending, Running

    from flows.deployments import ONE_AT_A_TIME
    from tasks.prefect_view import WAITING

    @flow(persist_result=False)
    def waits():
        return None

    deployment = client.create_deployment(
        client.create_flow(waits), "waits", concurrency_limit=ONE_AT_A_TIME.limit,
    )  # fmt: skip
    try:
        first, second = (client.create_flow_run_from_deployment(deployment) for _ in range(2))

        def slots() -> int:
            return client.read_deployment(deployment).global_concurrency_limit.active_slots

        for state in (Pending(), Running(), Running(name=WAITING, message="for a run"), Running()):
            client.set_flow_run_state(first.id, state)
            assert slots() == 1, state.name
            assert client.read_flow_run(first.id).state.name == state.name
        client.set_flow_run_state(second.id, Pending())
        assert not client.read_flow_run(second.id).state.is_pending(), "the slot is taken"
        client.set_flow_run_state(first.id, Completed())
        assert slots() == 0
    finally:
        client.delete_deployment(deployment)


def test_a_store_is_kept_from_the_forms(client, tmp_path):
    from prefect.logging.handlers import APILogHandler

    from flows.maintenance import (
        CollectionRequest,
        ErasureRequest,
        StorePlace,
        collect_garbage,
        erase,
    )

    url = str(tmp_path / "store")
    store, secret = open_store(url), IdentitySecret.load(url)
    initialize(store, secret)
    key = secret.identity_key("zoe-secret")
    store.put_if_absent(f"identities/{key}/blobs/{sha256_hex(b'zoe')}", b"zoe")
    place = StorePlace(store=url)
    found = collect_garbage(CollectionRequest(), place, return_state=True)
    assert found.is_completed() and "to remove (nothing was: delete is off); 1 too young" in found.message

    wrong = ErasureRequest(identity_id="zoe-secret", confirm="zoe-secrt", wait=False)
    assert erase(wrong, place, return_state=True).is_failed()
    assert list(store.list(f"identities/{key}/")), "nothing was erased"
    right = ErasureRequest(identity_id="zoe-secret", confirm="zoe-secret", wait=False)
    state = erase(right, place, return_state=True)
    assert state.is_completed() and key in state.message and "second sweep due" in state.message
    assert not list(store.list(f"identities/{key}/")) and is_erased(store, key)
    late = f"identities/{key}/blobs/{sha256_hex(b'late')}"  # by a worker that was at it
    store.put_if_absent(late, b"late")
    found = collect_garbage(CollectionRequest(delete=True), place, return_state=True)
    assert found.is_completed() and "1 erasures continued" in found.message and store.head(late) is None
    (receipt,) = artifacts(client, "receipt")
    assert json.loads(receipt.data)[0] == {"what": "objects and versions", "removed": 1}
    APILogHandler().flush()
    told = [*client.read_logs(limit=200), *client.read_artifacts(limit=200)]
    assert not [each for each in told if "zoe-secret" in each.model_dump_json()]


def test_people_whose_consent_ended_are_erased_by_the_scheduled_flow(tmp_path, client, monkeypatch):
    import datetime as dt
    from functools import partial

    from faceid_core.upkeep.erase import Erasures
    from flows import maintenance
    from tests.helpers.pretend_night import pretend_config, pretend_night, write_manifest

    manifest = write_manifest(tmp_path / "people", 2)
    config = pretend_config(str(tmp_path / "store"), manifest)
    keys = list(pretend_night(config).outcome_reports)
    store, today = open_store(config.store), dt.datetime.now(dt.UTC).date()
    manifest.write_text(
        "identity_id,photo,class_word,consent_until\n"
        f"person-000000,000000.png,person,{today - dt.timedelta(days=8)}\n"
        f"person-000001,000001.png,person,{today - dt.timedelta(days=7)}\n"
    )
    monkeypatch.setattr(maintenance, "erase_expired", partial(maintenance.erase_expired, longest_lease=0.0))
    listed = maintenance.erase_expired_consent(config, return_state=True)
    assert listed.is_completed() and listed.message.startswith("2 consents have ended, 0 people erased")
    assert not any(is_erased(store, key) for key in keys)
    due = changed(config, {"consent.erase_after_days": 7}, source="test")
    state = maintenance.erase_expired_consent(due, return_state=True)
    assert state.message == "2 consents have ended, 1 people erased (7 days of grace)"
    assert [is_erased(store, key) for key in keys] == [True, False]
    table = json.loads(max(artifacts(client, "expired-consents"), key=lambda each: each.created).data)
    assert table == [
        {"identity": keys[0], "days since the consent": 8, "erasure": "complete"},
        {"identity": keys[1], "days since the consent": 7, "erasure": "kept"},
    ]
    def cannot_complete(*_, **__):
        return Erasures([], frozenset({keys[1]}))

    with monkeypatch.context() as patch:
        patch.setattr(maintenance, "erase_expired", cannot_complete)
        half = maintenance.erase_expired_consent(due, return_state=True)
    assert half.is_failed() and f"the erasure of {keys[1]} is not complete" in half.message
    manifest.write_text(manifest.read_text().replace("person,20", "person,someday 20"))
    failed = maintenance.erase_expired_consent(due, return_state=True)
    assert failed.is_failed() and "the manifest has 2 problem(s)" in failed.message
    assert "person-00000" not in state.message + failed.message


@pytest.mark.exhaustive
def test_a_study_is_a_night_per_variant_and_a_page(small, people, tmp_path, client, monkeypatch):
    from flows.manual_runs import StudyRequest, study

    config = small(
        str(tmp_path / "store"), people, executor="inline", score={"metrics": ["identity", "concepts"]}
    )
    request = StudyRequest(
        study="kv-split", variants=("on",), conditions=("said",), people=2, seeds=1, grid=config.generate.grid,
        out=str(tmp_path / "out"),
    )  # fmt: skip
    state = study(request, config, return_state=True)
    assert state.is_completed() and "1 variants computed, 0 were in the store" in state.message
    (variant,) = [name for name in names(client) if name.startswith("study-kv-split-said-on-")]
    assert variant.endswith("-miniature-2")
    (page,) = artifacts(client, "study-kv-split")
    assert page.data == (tmp_path / "out" / "kv-split.md").read_text(encoding="utf-8")
    again = study(request, config, return_state=True)
    assert "0 variants computed, 1 were in the store" in again.message
    # A pool's worker starts runs in a folder that it removes.
    with tempfile.TemporaryDirectory(suffix="prefect") as folder:
        monkeypatch.chdir(folder)
        refused = study(request.model_copy(update={"out": "work/studies"}), config, return_state=True)
        monkeypatch.undo()
    assert refused.is_failed() and "give an absolute path" in refused.message


def register(client, cron: str, *names: str, told: list[str] | None = None):
    """Register deployments, as `serve` does with all at its start; returns nightly. What is said goes into `told`."""
    from flows.deployments import deployments, keep_operator_changes

    for deployment in deployments(NightlyConfig(), cron):
        if deployment.name in ("nightly", *names):
            keep_operator_changes(client, deployment, [].append if told is None else told.append)
            deployment.apply()
    return client.read_deployment_by_name("nightly/nightly")


def schedules(deployment) -> dict[str, bool]:
    return {each.schedule.cron: each.active for each in deployment.schedules}


def test_a_schedule_that_is_switched_off_stays_off(client):
    from prefect.client.schemas.schedules import CronSchedule

    nightly = register(client, "0 22 * * *", "erase")
    assert schedules(nightly) == {"0 22 * * *": True} and not nightly.paused
    client.update_deployment_schedule(nightly.id, nightly.schedules[0].id, active=False)
    client.pause_deployment(client.read_deployment_by_name("erase/erase").id)
    nightly = register(client, "0 23 * * *", "erase")
    assert schedules(nightly) == {"0 23 * * *": False}, "another time is not switched on"
    assert client.read_deployment_by_name("erase/erase").paused

    # What was added on the server is kept; without --cron there is no schedule of ours, and a new one is on.
    client.update_deployment_schedule(nightly.id, nightly.schedules[0].id, active=True)
    client.create_deployment_schedules(nightly.id, [(CronSchedule(cron="5 5 * * *"), False)])
    assert schedules(register(client, "0 21 * * *")) == {"0 21 * * *": True, "5 5 * * *": False}
    told: list[str] = []
    assert schedules(register(client, "", told=told)) == {"5 5 * * *": False}
    assert told == ["nightly: the schedule '0 21 * * *' of an earlier --cron is removed, since this call has none"]
    client.pause_deployment(nightly.id)
    nightly = register(client, "0 22 * * *")
    assert schedules(nightly) == {"5 5 * * *": False, "0 22 * * *": True} and nightly.paused


def test_a_run_that_ended_untold_is_closed_and_gives_back_its_own_place_only(client, monkeypatch, tmp_path):
    from prefect.states import Crashed, Pending, Running

    from flows.crashed_runs import RunProcesses, mark_crashed_runs

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    nightly = register(client, "")

    def started() -> object:
        run = client.create_flow_run_from_deployment(nightly.id, parameters={"config": {}})
        client.set_flow_run_state(run.id, Pending())
        return run

    def places_taken() -> int:
        return client.read_deployment(nightly.id).global_concurrency_limit.active_slots

    lost, runs = started(), RunProcesses("http://here/api")
    client.set_flow_run_state(lost.id, Running())
    runs.remember(lost.id, 2**22 + 1)  # above every process id
    assert places_taken() == 1
    assert mark_crashed_runs(client, RunProcesses("http://there/api"), [nightly.id], own=False) == []
    assert client.read_flow_run(lost.id).state.is_running(), "what another machine runs is not judged"
    assert mark_crashed_runs(client, runs, [nightly.id], own=False) == [lost.name]
    state = client.read_flow_run(lost.id).state
    assert state.is_crashed() and "run it again" in state.message
    assert places_taken() == 0 and not list(runs)

    # Marked a second time, as the automation of lost runs may, it does not give back its successor's place.
    successor = started()
    client.set_flow_run_state(lost.id, Crashed(), force=True)
    assert places_taken() == 1
    # A run that had its place but no process yet has no record; on a server of ours it is lost.
    assert mark_crashed_runs(client, runs, [nightly.id], own=False) == []
    assert mark_crashed_runs(client, runs, [nightly.id], own=True) == [successor.name]
    assert places_taken() == 0
