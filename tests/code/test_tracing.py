"""Spans of a run: run, stage and identity in one trace, named by key, outcome and kind of error, and by nothing else."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from faceid_core.errors import StoreError
from faceid_core.nightly import drive_inline
from faceid_core.run import tracing
from faceid_core.run.open import open_run
from faceid_core.run.reporter import LogReporter
from faceid_core.stages import STAGES
from faceid_core.stages.work import Done, Work
from faceid_core.store.keys import StageCall
from tests.end_to_end.conftest import people, people_and_trouble, small  # noqa: F401 - fixtures


@pytest.fixture
def exported(monkeypatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_TRACER", provider.get_tracer("faceid"))
    return exporter


def test_a_run_is_one_trace_from_the_run_to_each_identity_and_names_nobody(
    small,  # noqa: F811
    people_and_trouble,  # noqa: F811
    tmp_path,
    exported,
    monkeypatch,
):
    def breaks(*_):
        raise RuntimeError("ann.png")
        yield

    monkeypatch.setattr("faceid_core.stages.executing.mask.execute", breaks)
    run = open_run(small(str(tmp_path / "store"), people_and_trouble), LogReporter())
    keys = {subject.identity_id: name for name, subject in run.subjects.items() if subject.identity_id}
    assert drive_inline(run).exit_status == 2

    spans = exported.get_finished_spans()
    by_id = {span.context.span_id: span for span in spans}
    (whole,) = (span for span in spans if span.parent is None)
    assert whole.name == "run" and whole.attributes["faceid.exit_status"] == 2
    assert {span.context.trace_id for span in spans} == {whole.context.trace_id}
    assert {span.attributes["faceid.run"] for span in spans} == {run.run_id}
    stages = {span.name for span in spans if span.parent and by_id[span.parent.span_id] is whole}
    assert stages == {f"stage {stage}" for stage in STAGES} | {"publish"}

    of_people = [span for span in spans if "faceid.identity_key" in span.attributes]
    for span in of_people:
        parent = by_id[span.parent.span_id]
        assert parent.name == f"stage {span.name}"
        assert parent.start_time <= span.start_time <= span.end_time <= parent.end_time
    told = {
        (span.name, span.attributes["faceid.identity_key"], span.attributes["faceid.outcome"]): span
        for span in of_people
    }
    assert ("detect", keys["ann"], "done") in told
    assert told["detect", keys["empty"], "rejected"].attributes["faceid.reason"] == "no_face"
    failed = told["mask", keys["ann"], "failed"]
    assert failed.attributes["error.type"] == "RuntimeError" and failed.status.status_code is StatusCode.ERROR

    text = " ".join(span.to_json() for span in spans)
    assert not [name for name in keys if f'"{name}"' in text or f"{name}.png" in text]
    assert str(tmp_path) not in text


def test_an_error_that_ends_a_block_is_named_by_its_kind_alone(exported):
    with pytest.raises(StoreError), tracing.span("stage mask", run="r"):
        raise StoreError("people/ann.png")
    (span,) = exported.get_finished_spans()
    assert span.attributes["error.type"] == "StoreError" and span.status.status_code is StatusCode.ERROR
    assert not span.events and "ann" not in span.to_json()


def test_a_worker_elsewhere_goes_on_with_the_drivers_span(exported):
    works = [Work(name, "common", StageCall("detect", 1, {}), {}, "detect") for name in ("a", "b")]

    def execute(some, progress):
        for work in some:
            progress(work.subject, 0, 1)
            yield Done(work, "done")

    def elsewhere(carrier: dict[str, str]) -> None:
        with tracing.continued(carrier):
            list(tracing.traced(execute, works, lambda *_: None, "r"))

    with tracing.span("stage detect") as stage:
        carrier = tracing.traceparent()
        thread = threading.Thread(
            target=elsewhere, args=(carrier,)
        )  # which starts without a span, as a process does
        thread.start()
        thread.join()
    version, trace_id, span_id, _flags = carrier["traceparent"].split("-")
    context = stage.get_span_context()
    assert (version, int(trace_id, 16), int(span_id, 16)) == ("00", context.trace_id, context.span_id)
    first, second, _ = exported.get_finished_spans()
    assert [span.attributes["faceid.subject"] for span in (first, second)] == ["a", "b"]
    assert {span.parent.span_id for span in (first, second)} == {context.span_id}
    assert second.start_time >= first.end_time, "one after another in one process"


def test_people_who_share_a_pass_begin_together(exported):
    works = [Work(name, "common", StageCall("personalize", 1, {}), {}, "personalize") for name in ("a", "b")]

    def together(some, progress):
        for work in some:
            progress(work.subject, 1, 2)
        yield from (Done(work, "done") for work in some)

    list(tracing.traced(together, works, lambda *_: None, "r"))
    first, second = exported.get_finished_spans()
    assert first.start_time == second.start_time and second.end_time >= first.end_time


ASK = """
import sys
from faceid_core.run import tracing
tracing.start_tracing(print)
tracing.start_tracing(print)
with tracing.span("run", run="the run"):
    print("traceparent" in tracing.traceparent(), "opentelemetry.sdk.trace" in sys.modules)
"""


@pytest.mark.parametrize(
    ("variables", "first", "last"),
    [
        ({}, "False False", "False False"),
        (
            {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"},
            "False False",
            "False False",
        ),
        ({"OTEL_TRACES_EXPORTER": "console"}, "True True", "}"),
        (
            {"OTEL_TRACES_EXPORTER": "absent"},
            "no spans are sent, because their exporter absent is not",
            "False True",
        ),
    ],
)
def test_the_standard_variables_switch_it_on(variables, first, last):
    env = {"PATH": "/usr/bin", **variables}
    asked = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=Path(__file__).parents[2],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = asked.stdout.splitlines()
    assert lines[0].startswith(first) and lines[-1] == last, asked.stdout
    assert ('"faceid.run": "the run"' in asked.stdout) is (variables.get("OTEL_TRACES_EXPORTER") == "console")
