"""faceid doctor: each check tells a sound machine from an unsound one, and says what to do."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from faceid_core.config import NightlyConfig
from faceid_core.config.sections import GenerateConfig
from faceid_core.doctor import machine
from faceid_core.doctor.expectation import calibrate, expectation, from_results, seconds_each
from faceid_core.doctor.finding import Finding, guarded
from faceid_core.doctor.rates import learning_rate
from faceid_core.doctor.storage import PREFIX, examine
from faceid_core.plan.estimate import Estimate
from faceid_core.plan.planning import plan_run
from flows import cli_doctor
from flows.cli import cli
from flows.prefect_auth import reload_prefect_settings
from tests.helpers.tiny_pipeline import write_tiny_pipeline

INLINE = ["doctor", "--executor", "inline", "--no-measuring"]


class Wrapped:
    """A store in whose place tests put faults; and one lock around moto's conditional writes, which are not atomic."""

    def __init__(self, store):
        self._store, self._lock = store, threading.Lock()

    def __getattr__(self, name):
        return getattr(self._store, name)

    def put_if_absent(self, name, data):
        with self._lock:
            return self._store.put_if_absent(name, data)

    def replace_if_match(self, name, data, etag):
        with self._lock:
            return self._store.replace_if_match(name, data, etag)


class EverybodyWins(Wrapped):
    """Create-if-absent that forgets its condition, as some clones of S3 do."""

    def put_if_absent(self, name, data):
        super().put_if_absent(name, data)
        return True


class LastWins(Wrapped):
    """Compare-and-swap that forgets its condition."""

    def replace_if_match(self, name, data, etag):
        with self._lock:
            return self._store.replace_if_match(name, data, self._store.get_with_etag(name)[1])


def test_a_sound_store_passes_and_nothing_stays_in_it(any_store):
    found = list(examine(Wrapped(any_store)))
    assert [each.state for each in found] == ["ok"] * 3, found
    assert "10 races of 8 writers" in found[1].found and list(any_store.list("")) == []


@pytest.mark.parametrize(
    ("kind", "check"), [(EverybodyWins, "create if absent"), (LastWins, "compare and swap")]
)
def test_a_store_without_conditions_fails(folder_store, kind, check):
    failed = [each for each in examine(kind(folder_store)) if each.state == "fail"]
    assert [each.check for each in failed] == [f"store: {check}"] and "8 of 8 writers" in failed[0].found
    assert "AWS S3" in failed[0].advice and list(folder_store.list(f"{PREFIX}/")) == []


def test_versions_are_held_to_ranges_and_pins():
    def states(requirements, pins):
        return {each.state: each.found for each in machine.versions(requirements, pins)}

    import numpy

    assert (
        "1 libraries as in the pins"
        in states(["numpy>=2", "pytest>=1; extra == 'test'"], {"numpy": numpy.__version__})["ok"]
    )
    assert "needed >=99" in states(["numpy>=99"], {})["fail"]
    assert "tested with 2.0.0" in states(["numpy>=2"], {"numpy": "2.0.0"})["warn"]
    assert "no-such-library is not installed" in states(["no-such-library"], {})["fail"]
    assert not [each for each in machine.versions() if each.state == "fail"]


def test_the_machine_is_held_to_the_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    gpu = {each.check: each for each in machine.devices(NightlyConfig(base_model={"device": "cuda"}))}["gpu"]
    assert gpu.state == "fail" and "base_model.device: cpu" in gpu.advice
    assert {each.state for each in machine.devices(NightlyConfig())} == {"ok"}
    seconds = {"float32": 1.0, "bfloat16": 0.5, "float16": 70.0}
    monkeypatch.setattr(machine, "_product_seconds", seconds.get)
    for precision, state in (("bfloat16", "ok"), ("float16", "warn")):
        short = {each.check: each for each in machine.devices(NightlyConfig(base_model={"precision": precision}))}
        assert short["precision"].state == state
    assert "70.0 times as long" in short["precision"].found and "float32" in short["precision"].advice
    (crowd,) = machine.memory(NightlyConfig(execution={"workers": 1024}))
    monkeypatch.setattr(machine, "_memory_bytes", lambda: (10_000_000, 10_000_000))
    (poor,) = machine.memory(NightlyConfig())
    assert poor.state == "fail" and "execution.workers" in poor.advice and "1024 worker(s)" in crowd.found
    room = machine.shutil.disk_usage(tmp_path)._replace(free=50_000_000_000)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: room)
    store = NightlyConfig(store=str(tmp_path / "store"))
    few = {each.check: each.state for each in machine.disk(store, 2, 64, 96)}
    assert few == {"disk: temporary files": "ok", "disk: store": "ok"}
    many = {each.check: each for each in machine.disk(store, 10**9, 512, 96)}["disk: store"]
    wide = store.model_copy(update={"generate": GenerateConfig(width=1024)})
    assert "take up to 0.20 GB" in {each.check: each for each in machine.disk(wide, 2, 512, 96)}["disk: store"].found
    assert many.state == "fail" and "make room" in many.advice


def test_the_learning_rate_is_told_in_the_base_models_own_embeddings(tmp_path):
    def found(preset, source):
        config = NightlyConfig(base_model={"source": source}, personalize={"preset": preset})
        return [each.found for each in learning_rate(config)]

    assert found("textual-inversion", "miniature") == [
        "8.96 spreads are 0.4 in text_encoder, whose token embeddings have a spread of 0.04464"
    ]
    # The tiny model's embeddings are drawn with a deviation of 0.5.
    (tiny,) = found("textual-inversion", str(write_tiny_pipeline(tmp_path / "tiny")))
    assert float(tiny.split()[-1]) == pytest.approx(0.5, rel=0.05)
    assert (
        found("semantic-fidelity", "miniature") == found("directional-textual-inversion", "miniature") == []
    )
    assert found("textual-inversion", str(tmp_path / "absent")) == []


def planned(tmp_path, **changes):
    return plan_run(NightlyConfig(store=str(tmp_path / "store"), score={"named_people": 0}, **changes))


def test_earlier_results_say_what_a_person_takes(tmp_path):
    run = planned(tmp_path)
    stages = {"personalize": 240.0, "generate": 80.0, "score-identity": 40.0}
    known = replace(run, estimate=Estimate(stages, dict.fromkeys(stages, 5), (), 2))
    told = list(expectation(known, workers=2, cost_per_hour=30.0))
    assert [each.found for each in told] == [
        "45.0 s (from 15 earlier results in this store)",
        "8 of 8 people to compute: about 3 min 00 s on 2 worker(s), 0.10 worker hours, cost about 3.00",
    ]
    without = replace(run, estimate=Estimate(stages, dict.fromkeys(stages, 5), ("score-leakage",), 2))
    assert "without score-leakage" in from_results(without).source
    assert "at least 3 min" in list(expectation(without, workers=2))[1].found
    assert from_results(replace(run, estimate=Estimate(stages, {}, ("generate",), 2))) is None
    (open_question,) = expectation(run, workers=1)
    assert open_question.state == "warn" and "--no-measuring" in open_question.advice
    (nothing,) = expectation(replace(run, stages=[]), workers=1)
    assert "everything is cached" in nothing.found


@pytest.mark.parametrize("slots", [1, 0])
def test_without_earlier_results_it_is_measured(tmp_path, monkeypatch, slots):
    monkeypatch.setattr("faceid_core.personalize.trainer._CPU_SLOTS", 1)
    run = planned(tmp_path, personalize={"slots": slots}, generate={"batch": 1, "steps": 10, "seeds": 1})
    told = list(expectation(run, workers=1, measure=calibrate))
    assert "measured here" in told[0].found and float(told[0].found.split()[0]) > 0
    assert told[1].found.startswith("8 of 8 people to compute")


@pytest.mark.parametrize(
    ("one", "further", "most", "measured_with", "each"),
    [
        (0.01, 0.001, 32, 32, 0.041 / 32),  # a GPU: more at once cost little
        (0.3, 0.3, 32, 1, 0.3),  # a slow processor: it is as busy with one as with many
        (0.02, 0.02, 2, 2, 0.02),
        (60.0, 60.0, 8, 1, 61.0),  # the one step that is taken, with its start
    ],
)
def test_measuring_ends_in_time_however_slow_the_machine_is(
    monkeypatch, one, further, most, measured_with, each
):
    clock = Ticks()
    monkeypatch.setattr("faceid_core.doctor.expectation.time", clock)

    def act(steps: int, at_once: int) -> None:
        clock.now += 1.0 * (one > 1) + steps * (one + further * (at_once - 1))

    seconds, at_once = seconds_each(act, most, limit=3.0)
    assert (at_once, seconds) == (measured_with, pytest.approx(each))
    assert clock.now <= max(3.0, one + 1.0)


class Ticks:
    """A clock that goes on when it is told to."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_the_command_passes_a_sound_machine_and_says_what_it_is_doing(tmp_path):
    command = [*INLINE, "--store", str(tmp_path / "store"), "--json"]
    told = CliRunner().invoke(cli, command, catch_exceptions=False)
    shown = told.stderr.splitlines()
    assert [line for line in shown if line.startswith("checking")] == [
        f"checking {what}"
        for what in (
            "devices",
            "memory",
            "versions",
            "weights",
            "learning rate",
            "store",
            "manifest",
            "the run",
        )
    ]
    assert "planning: detect is looked up, 0 cached, 24 to compute" in shown
    answer = json.loads(told.stdout)
    assert (told.exit_code, answer["ok"]) == (0, True), answer
    states = {each["check"]: each["state"] for each in answer["findings"]}
    assert states["weights: shipped"] == states["store: compare and swap"] == states["manifest"] == "ok"
    assert states["seconds a person"] == "warn"


def test_the_command_says_what_keeps_a_night_from_running(tmp_path):
    settings = tmp_path / "night.yaml"
    settings.write_text(
        f"identities: {tmp_path / 'absent.csv'}\nstore: {tmp_path / 'store'}\nfaces: {{backend: deepface}}\n"
        f"score: {{scorers: photographs, recognizers: [SFace], metrics: [identity]}}\nweights: {tmp_path}\n"
    )
    told = CliRunner().invoke(cli, [*INLINE, "--config", str(settings), "--json"], catch_exceptions=False)
    failed = {each["check"]: each for each in json.loads(told.stdout)["findings"] if each["state"] == "fail"}
    assert told.exit_code == 3 and {"weights: recognizer", "manifest"} <= set(failed)
    assert "24,227,283 bytes" in failed["weights: recognizer"]["found"]
    assert "faceid models fetch" in failed["weights: recognizer"]["advice"]
    table = CliRunner().invoke(cli, [*INLINE, "--config", str(settings)], catch_exceptions=False)
    assert table.exit_code == 3 and "keep the run from running" in table.output


def test_a_check_that_breaks_is_a_finding():
    def broken():
        raise OSError("no such device\nand more")

    assert guarded("it", broken) == [
        Finding(
            "it", "fail", "OSError: no such device", "the check itself broke; the run would meet the same"
        )
    ]


@pytest.fixture
def prefect_api(monkeypatch):
    """A server that answers as Prefect's does; what it says can be changed."""
    from importlib.metadata import version

    answers = {"/api/health": b"true", "/api/admin/version": json.dumps(version("prefect")).encode()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            # As Prefect's server with PREFECT_SERVER_API_AUTH_STRING: only health is open to all.
            given = self.headers.get("Authorization")
            refused = "health" not in self.path and given != answers.get("authorization", given)
            self.send_response(401 if refused else 200)
            self.end_headers()
            self.wfile.write(b"" if refused else answers[self.path])

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_address[1]}/api")
    yield answers
    server.shutdown()
    server.server_close()
    monkeypatch.undo()
    reload_prefect_settings()


def ask_prefect() -> list[Finding]:
    """What a doctor who is started now finds: Prefect reads its settings once."""
    reload_prefect_settings()
    return list(cli_doctor._prefect())


def test_the_doctor_asks_by_the_settings_that_a_run_reads(prefect_api, monkeypatch):
    from prefect.context import use_profile
    from prefect.settings import Profile

    from flows.prefect_server import configured_server

    url = os.environ["PREFECT_API_URL"]
    monkeypatch.delenv("PREFECT_API_URL")
    reload_prefect_settings()
    prefect_api["authorization"] = "Basic dXNlcjpwYXNz"
    of_user = {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": "user:pass"}
    with use_profile(Profile(name="mine", settings=of_user)):
        (found,) = cli_doctor._prefect()
        assert configured_server() == url
    assert found.state == "ok" and url in found.found
    with use_profile(Profile(name="none", settings={"PREFECT_SERVER_EPHEMERAL_ENABLED": "false"})):
        (forbidden,) = cli_doctor._prefect()
    assert forbidden.state == "fail" and "PREFECT_API_URL" in forbidden.advice


def test_the_prefect_server_is_asked(prefect_api, monkeypatch):
    assert [each.state for each in ask_prefect()] == ["ok"]
    prefect_api["/api/admin/version"] = b'"2.1.0"'
    assert "server 2.1.0" in ask_prefect()[0].found
    prefect_api["authorization"] = "Basic dXNlcjpwYXNz"
    (refused,) = ask_prefect()
    assert refused.state == "fail" and "401" in refused.found and "AUTH_STRING" in refused.advice
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "user:pass")
    assert "server 2.1.0" in ask_prefect()[0].found
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    (gone,) = ask_prefect()
    assert gone.state == "fail" and "PREFECT_API_URL" in gone.advice
    monkeypatch.delenv("PREFECT_API_URL")
    assert ask_prefect()[0].state == "ok"


@pytest.mark.parametrize(
    ("execution", "store", "nodes", "state", "words"),
    [
        ({"workers": 2}, "s3://b/p", 2, "ok", "2 worker(s)"),
        ({"workers": 0, "threads_per_worker": 4}, "s3://b/p", 1, "ok", "2 worker(s)"),
        ({"workers": 0}, "s3://b/p", 2, "ok", "2 worker(s), each with 8 CPU"),
        ({"workers": 9}, "s3://b/p", 1, "fail", "there is room for 8"),
        ({"workers": 2}, "folder", 2, "fail", "execution.shared_store"),
        # A cluster that is scaled to zero: the nodes that come later do not reach the folder.
        ({"workers": 2, "ray_address": "auto"}, "folder", 1, "fail", "execution.shared_store"),
        ({"workers": 2}, "folder", 1, "ok", "2 worker(s)"),
    ],
)
def test_rays_room_is_held_to_the_workers(monkeypatch, execution, store, nodes, state, words):
    from tasks import ray_cluster

    monkeypatch.setattr(ray_cluster, "start_ray", lambda *_, **__: None)
    alive = {"NodeID": "a", "Alive": True, "Resources": {"CPU": 8.0}}
    monkeypatch.setattr(ray_cluster.ray, "nodes", lambda: [alive] * nodes + [{"Alive": False}])
    monkeypatch.setattr(ray_cluster.ray, "shutdown", lambda: None)
    (found,), workers = ray_cluster.check_ray(NightlyConfig(store=store, execution=execution))
    assert found.state == state and words in f"{found.found} {found.advice}" and workers >= 2


@pytest.mark.parametrize(
    ("execution", "words"),
    [
        ({"workers": 0}, "8 worker(s)"),
        ({"workers": 9}, "room for 8"),
        ({"workers": 8, "threads_per_worker": 64}, "8 worker(s)"),
    ],
)
def test_rays_room_beside_gpus_is_that_of_the_pool(monkeypatch, execution, words):
    from tasks import ray_cluster

    monkeypatch.setattr(ray_cluster, "start_ray", lambda *_, **__: None)
    node = {"NodeID": "a", "Alive": True, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    monkeypatch.setattr(ray_cluster.ray, "nodes", lambda: [node])
    monkeypatch.setattr(ray_cluster.ray, "shutdown", lambda: None)
    (found,), _ = ray_cluster.check_ray(NightlyConfig(execution=execution))
    assert words in f"{found.found} {found.advice}"


@pytest.mark.exhaustive
def test_the_real_ray_of_this_machine():
    from tasks.ray_cluster import check_ray

    (found,), workers = check_ray(NightlyConfig())
    assert found.state == "ok" and workers == 1
