"""The automations of infra/ on a real Prefect server: each is fired once, with short windows."""

from __future__ import annotations

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from faceid_core.store.secret import IdentitySecret
from tests.end_to_end.test_prefect_deployments import register
from tests.helpers.waiting import within_time

ROOT = Path(__file__).parents[2]
AUTOMATIONS = ROOT / "infra" / "prefect" / "automations"


@pytest.fixture
def client(prefect_server):
    """A client of the server."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


class _Listener(BaseHTTPRequestHandler):
    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.server.messages.append(json.loads(self.rfile.read(length)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def listener():
    """A webhook's end: (address, messages)."""
    server = HTTPServer(("127.0.0.1", 0), _Listener)
    server.messages = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", server.messages
    server.shutdown()


def put_automations(*arguments: str) -> str:
    from flows.cli_automations import automations

    done = CliRunner().invoke(automations, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_failure_is_told_once_the_automations_are_there(client, listener, tmp_path):
    from prefect import tags

    from flows.maintenance import CollectionRequest, StorePlace, collect_garbage

    address, messages = listener
    assert "failures: left out; give the address of its messages" in put_automations()
    assert "failures: made" in put_automations("--notify", address, "--notify-kind", "webhook")
    assert put_automations().count("brought up to date") == 5, "again changes nothing"
    there = client.read_automations()
    assert sorted(each.name for each in there) == [
        "faceid failures", "faceid late runs", "faceid lost runs", "faceid run not started", "faceid unusual runs",
    ]  # fmt: skip
    lost = next(each for each in there if each.name == "faceid lost runs")
    assert lost.enabled and lost.trigger.within.total_seconds() == 540
    blocks = client.read_block_documents(include_secrets=False)
    assert address not in " ".join(block.model_dump_json() for block in blocks)

    with tags("faceid"):
        state = collect_garbage(
            CollectionRequest(), StorePlace(store=str(tmp_path / "no")), return_state=True
        )
    assert state.is_failed()
    within_time(lambda: messages, "a message")
    assert "collect-garbage Failed" in messages[0]["subject"]
    assert messages[0]["body"].strip() == state.message.split(";")[0]


@pytest.mark.exhaustive
def test_a_run_that_nothing_starts_is_told_and_one_that_starts_late_is_not(client, listener, tmp_path):
    import datetime as dt

    from prefect.states import Cancelled, Late, Running, Scheduled

    address, messages = listener
    soon = tmp_path / "soon.yaml"
    soon.write_text((AUTOMATIONS / "not-started.yaml").read_text().replace("within: 3600", "within: 10"))
    put_automations(str(soon), "--notify", address, "--notify-kind", "webhook")
    nightly = register(client, "")
    time.sleep(2)  # the new trigger is read by the server
    due = Scheduled(scheduled_time=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5))
    missed, started = (
        client.create_flow_run_from_deployment(nightly.id, name=name, state=due, parameters={"config": {}})
        for name in ("missed", "started")
    )
    for run in (missed, started):  # as the server does 15 s after a run is due
        client.set_flow_run_state(run.id, Late(scheduled_time=due.state_details.scheduled_time))
    client.set_flow_run_state(started.id, Running(), force=True)
    within_time(lambda: messages, "a message")
    time.sleep(6)  # past the next look of the server, which is each five seconds
    (told,) = messages
    assert told["subject"] == "faceid: a run has not started" and "missed is an hour late" in told["body"]
    for run in (missed, started):
        client.set_flow_run_state(run.id, Cancelled(), force=True)


@pytest.mark.exhaustive
def test_late_and_unusual_runs_are_told_in_figures_and_without_people(
    small, people, tmp_path, client, listener, monkeypatch
):
    from flows.nightly import nightly

    address, messages = listener
    files = [str(AUTOMATIONS / name) for name in ("late-runs.yaml", "unusual-runs.yaml")]
    put_automations(*files, "--notify", address, "--notify-kind", "webhook")
    time.sleep(2)  # the new triggers are read by the server
    config = small(str(tmp_path / "store"), people, executor="inline", run={"finish_by": "03:00"})
    assert nightly(config, return_state=True).is_completed()
    again = nightly(config, return_state=True)
    assert again.is_completed() and "2 cached" in again.message

    people.write_text(people.read_text() + "cyd,no-such-file.png,person\n")
    unusual = nightly(config, return_state=True)
    assert unusual.is_completed() and "1 rejected" in unusual.message
    within_time(lambda: messages, "a message")
    (told,) = messages
    assert told["subject"].endswith("miniature-3 is unusual")
    assert "rejected: 33%, against 0% in 2 runs before" in told["body"] and "weak" not in told["body"]

    messages.clear()
    people.write_text(people.read_text() + "dan,bob.png,man\n")
    monkeypatch.setattr("faceid_core.run.state.past_finish_by", lambda *_: True)
    late = nightly(config, return_state=True)
    assert late.is_failed() and "1 not reached" in late.message
    late_ones = within_time(lambda: [each for each in messages if "late" in each["subject"]], "a message")
    (told,) = late_ones
    assert told["subject"].endswith("miniature-4 is late")
    assert "finish_by, 03:00, passed before 1 of 4 identities were learned" in told["body"]
    # One photo of four was left to be detected: its chunk and its stage say that they were stopped.
    ended = {run.name: run.state for run in client.read_task_runs(limit=200) if run.state.name == "Stopped"}
    assert ended["detect-1-to-1"].is_cancelled() and not [name for name in ended if not name.startswith("detect-")]
    assert ended["detect-1-to-1"].message.startswith("0 of 1 done, 1 not reached: the run was stopped, or finish_by")
    (stage,) = [run for run in client.read_flow_runs(limit=200) if run.state.name == "Stopped"]
    assert stage.name.startswith("detect-") and "1 of 1 chunks were stopped" in stage.state.message
    events = client.request("POST", "/events/filter", json={"filter": {"event": {"prefix": ["faceid.run."]}}}).json()
    assert {each["event"] for each in events["events"]} == {
        "faceid.run.completed", "faceid.run.unusual", "faceid.run.late",
    }  # fmt: skip
    # The newest is first, and the late run has a rejected photo, too.
    payload = [each for each in events["events"] if each["event"] == "faceid.run.unusual"][-1]["payload"]
    assert payload["outcomes"]["rejected"] == 1 and payload["exit_status"] == 0
    keys = [IdentitySecret.load(config.store).identity_key(name) for name in ("ann", "bob", "cyd", "dan")]
    text = json.dumps(events)
    assert not [word for word in (*keys, "no-such-file") if word in text]
    assert not re.findall(r"\b(?:ann|bob|cyd|dan)\b", text)


@pytest.mark.exhaustive
def test_a_run_without_heartbeats_is_marked_and_one_that_ended_is_not(client, tmp_path):
    from prefect import flow
    from prefect.events import emit_event
    from prefect.states import Completed, Running

    file = ROOT / "infra" / "prefect" / "automations" / "lost-runs.yaml"
    soon = tmp_path / "soon.yaml"
    soon.write_text(file.read_text().replace("within: 540", "within: 10"))
    put_automations(str(soon))

    @flow(persist_result=False)
    def ends():
        return Completed(name="Cached")

    lost, ended = (client.create_flow_run(ends, name=name, state=Running()) for name in ("lost", "ended"))
    time.sleep(2)  # the new trigger is read by the server
    for run in (lost, ended):
        emit_event(
            "prefect.flow-run.heartbeat", resource={"prefect.resource.id": f"prefect.flow-run.{run.id}"}
        )
    client.set_flow_run_state(ended.id, Completed(name="Cached"))
    within_time(lambda: client.read_flow_run(lost.id).state.is_crashed(), "the lost run's end")
    assert "run it again" in client.read_flow_run(lost.id).state.message
    time.sleep(6)  # past the next look of the server, which is each five seconds
    assert client.read_flow_run(ended.id).state.name == "Cached"


def test_the_automation_of_lost_runs_is_there_once_and_stays_switched_off(client):
    from flows.cli_automations import put_silent

    for there in client.read_automations():
        client.delete_automation(there.id)
    put_silent(client)
    (lost,) = client.read_automations_by_name("faceid lost runs")
    assert lost.enabled
    client.pause_automation(lost.id)
    put_silent(client)
    (lost,) = client.read_automations_by_name("faceid lost runs")
    assert not lost.enabled
    assert not client.read_automations_by_name("faceid failures"), "no address for messages was given"
