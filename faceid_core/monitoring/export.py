"""Where a run's metrics are offered: an HTTP endpoint, a textfile for node_exporter, a Pushgateway."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from faceid_core.config.monitoring import MetricsConfig
from faceid_core.private import READABLE_MODE, replaced
from faceid_core.run.executor import Executor
from faceid_core.run.state import Run

if TYPE_CHECKING:  # prometheus_client takes 70 ms to import, which a run without metrics does without
    from prometheus_client import CollectorRegistry

    from faceid_core.monitoring.metrics import RunMetrics

WRITE_SECONDS = 15.0  # between two writes of the textfile: Prometheus' usual interval
PUSH_TIMEOUT_SECONDS = 5.0


class Monitoring:
    """A run's metrics as its driver sees them; all of it does nothing where the configuration wants none."""

    def __init__(self, metrics: RunMetrics | None):
        self._metrics = metrics

    def watching(self, make: Callable[[], Executor]) -> Callable[[], Executor]:
        """The same maker of an executor, whose workers the metrics then show."""
        metrics = self._metrics
        if metrics is None:
            return make

        def make_and_watch() -> Executor:
            executor = make()
            metrics.usage = executor.usage
            return executor

        return make_and_watch

    def ended(self, exit_status: int | None) -> None:
        """Note how the run ended; None for an interruption."""
        if self._metrics is not None:
            self._metrics.exit_status, self._metrics.ended_at = exit_status, time.time()


@contextmanager
def monitored(run: Run) -> Generator[Monitoring]:
    """Keep and offer the metrics of a run for a block, as its configuration says.

    What cannot be offered is noted once, and the run goes on.

    Args:
        run: An open run; within the block its reporter is the metrics', which passes events on.
    """
    config = run.config.metrics
    if not config.wanted:
        yield Monitoring(None)
        return
    from faceid_core.monitoring.metrics import RunMetrics

    inner = run.reporter
    metrics = RunMetrics(run)
    run.reporter = metrics
    monitoring = Monitoring(metrics)
    try:
        with ExitStack() as offers:
            if config.port is not None:
                offers.enter_context(_served(config, metrics.registry, inner.note))
            if config.textfile or config.pushgateway:
                offers.enter_context(
                    _written(_outlets(config, metrics.registry, run.config.name), metrics, inner.note)
                )
            yield monitoring
    finally:
        run.reporter = inner


@contextmanager
def _served(
    config: MetricsConfig, registry: CollectorRegistry, note: Callable[[str], None]
) -> Generator[None]:
    """Serve the registry for a block."""
    from prometheus_client import start_http_server

    assert config.port is not None
    try:
        server, thread = start_http_server(config.port, config.host, registry)
    except OSError as error:
        note(f"metrics are not served at port {config.port} of {config.host} (metrics.port): {error}")
        yield
        return
    host = f"[{config.host}]" if ":" in config.host else config.host
    note(f"metrics at http://{host}:{server.server_port}/metrics until the run ends")
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def _written(outlets: Sequence[_Outlet], metrics: RunMetrics, note: Callable[[str], None]) -> Generator[None]:
    """Write to all outlets after each stage, every `WRITE_SECONDS`, and once more at the end of a block.

    A thread does it, so that a slow disk or network delays no work.
    """
    due, over = threading.Event(), threading.Event()

    def write_all() -> None:
        for outlet in outlets:
            outlet.write(note)

    def keep_writing() -> None:
        while not over.is_set():
            write_all()
            due.wait(WRITE_SECONDS)
            due.clear()
        write_all()

    metrics.on_stage = due.set
    thread = threading.Thread(target=keep_writing, daemon=True, name="metrics")
    thread.start()
    try:
        yield
    finally:
        over.set()
        due.set()
        thread.join(2 * PUSH_TIMEOUT_SECONDS)


class _Outlet:
    """One place that metrics are written to; a failure is noted once, until a write succeeds."""

    def __init__(self, what: str, put: Callable[[], None]):
        self._what, self._put, self._failed = what, put, False

    def write(self, note: Callable[[str], None]) -> None:
        try:
            self._put()
            self._failed = False
        except Exception as error:  # the run goes on without
            if not self._failed:
                note(f"metrics do not reach {self._what}: {error}")
            self._failed = True


def _outlets(config: MetricsConfig, registry: CollectorRegistry, name: str) -> list[_Outlet]:
    from prometheus_client import push_to_gateway

    found = []
    if config.textfile:
        path = os.path.abspath(config.textfile)
        found.append(_Outlet(f"the textfile {path}", lambda: write_textfile(path, registry)))
    if config.pushgateway:
        found.append(
            _Outlet(
                f"the Pushgateway {config.pushgateway}",
                lambda: push_to_gateway(config.pushgateway, name, registry, timeout=PUSH_TIMEOUT_SECONDS),
            )
        )
    return found


def write_textfile(path: str, registry: CollectorRegistry) -> None:
    """Replace a textfile whole, readable by all: prometheus_client's own function leaves the mode to the umask.

    Args:
        path: Ends in `.prom`, without which node_exporter does not read it.
        registry: What is written.

    Raises:
        OSError: it cannot be written.
    """
    from prometheus_client import generate_latest

    # node_exporter runs as another user; the figures name no person.
    with replaced(path, READABLE_MODE) as file:
        file.write(generate_latest(registry))
