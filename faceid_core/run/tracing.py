"""OpenTelemetry spans of a run: the run, its stages, and each identity's work, wherever it is computed.

They go where the standard `OTEL_*` variables say, and nowhere without them: the API then does nothing. A span names run,
stage, identity key, outcome and kind of error; never an id, a message (which may name a file) or a pixel.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points

from opentelemetry import context, trace
from opentelemetry.trace import Span, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from faceid_core.log_lines import about
from faceid_core.progress import ProgressCallback
from faceid_core.stages.work import Done, Work

_TRACER = trace.get_tracer("faceid")
_TRACEPARENT = TraceContextTextMapPropagator()
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# A worker is killed when its run ends, with the spans that it has not sent: the SDK's own delay is five seconds.
_DEFAULTS = {"OTEL_SERVICE_NAME": "faceid", "OTEL_BSP_SCHEDULE_DELAY": "1000"}

# Runs a batch of works of one stage, as `Worker.execute` does.
Execute = Callable[[Sequence[Work], ProgressCallback], Iterator[Done]]


def start_tracing(note: Callable[[str], object]) -> None:
    """Send this process' spans where `OTEL_TRACES_EXPORTER` or an OTLP endpoint says, unless something does already.

    Args:
        note: Told if the exporter is not installed; the run goes on without.
    """
    usual = "otlp" if any(map(os.environ.get, _ENDPOINTS)) else "none"
    asked = os.environ.get("OTEL_TRACES_EXPORTER") or usual
    if asked == "none" or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    if asked == "otlp":
        asked += "_proto_grpc" if os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc" else "_proto_http"
    try:
        # Not at the top: the SDK is no part of a run without spans.
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        (exporter,) = entry_points(group="opentelemetry_traces_exporter", name=asked)
        make = exporter.load()
    except (ImportError, ValueError) as error:
        note(
            f"no spans are sent, because their exporter {asked} is not installed (pip install 'faceid[tracing]'): {error}"
        )
        return
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(make()))
    trace.set_tracer_provider(provider)


@contextmanager
def span(name: str, **attributes: str | int) -> Generator[Span]:
    """A span around a block, within the present one; an error that leaves the block is named by its kind alone."""
    named = {f"faceid.{key}": value for key, value in attributes.items()}
    # The API's own record of an exception has the message.
    with _TRACER.start_as_current_span(
        name, attributes=named, record_exception=False, set_status_on_exception=False
    ) as present:
        try:
            yield present
        except BaseException as error:
            _fail(present, type(error).__name__)
            raise


def traceparent() -> dict[str, str]:
    """The present span for another process, as the W3C has it; empty without one."""
    carrier: dict[str, str] = {}
    _TRACEPARENT.inject(carrier)
    return carrier


@contextmanager
def continued(carrier: Mapping[str, str]) -> Generator[None]:
    """Take another process' span as the present one for a block."""
    token = context.attach(_TRACEPARENT.extract(carrier))
    try:
        yield
    finally:
        context.detach(token)


def traced(
    execute: Execute, works: Sequence[Work], on_progress: ProgressCallback, run_id: str
) -> Iterator[Done]:
    """Execute works with a span for each within the present one.

    A span begins when the worker had ended the one before, or with the first progress of those who share a pass.
    """
    since, begun = time.time_ns(), dict[str, int]()
    present = context.get_current()  # of the caller, whatever is current between two outcomes

    def progressed(subject: str, done: int, total: int | None) -> None:
        begun.setdefault(subject, since)
        on_progress(subject, done, total)

    for done in execute(works, progressed):
        stage = done.work.call.stage
        named = {"run": run_id, "outcome": done.status, **about(stage, done.work.subject)}
        ended = _TRACER.start_span(
            stage,
            present,
            attributes={f"faceid.{key}": value for key, value in named.items()},
            start_time=begun.pop(done.work.subject, since),
        )
        if done.status in ("failed", "damaged"):
            _fail(ended, done.reason or done.status)
        elif done.reason:
            ended.set_attribute("faceid.reason", done.reason)
        since = time.time_ns()
        ended.end(since)
        yield done


def _fail(failed: Span, kind: str) -> None:
    failed.set_attribute("error.type", kind)
    failed.set_status(Status(StatusCode.ERROR, kind))
