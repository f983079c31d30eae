"""The Prometheus metrics of one run, in a registry of its own; `docs/watching.md` has the table."""

from __future__ import annotations

import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from faceid_core.monitoring import STAGE_SECONDS
from faceid_core.outcomes import Outcome, tally
from faceid_core.run.executor import Usage
from faceid_core.run.state import Run
from faceid_core.stages import STAGES
from faceid_core.stages.work import Done
from faceid_core.store.requests import OPERATIONS, OUTCOMES, REQUESTS


class RunMetrics:
    """Counts a run's events, and passes each on to the run's own reporter.

    Every metric has the label `run_name`, the configuration's `name`, so that two kinds of run on one machine keep apart.
    No label holds an identity id or key: they are personal data, and would be a series for each person.

    Args:
        run: An open run. Its reporter is asked for here and stays the caller's to set.

    Attributes:
        registry: Holds the metrics of this run alone.
        usage: Gives the present usage of the workers, once they exist.
        exit_status: How the run ended; None while it goes on, and after an interruption.
        ended_at: Seconds since 1970; None while the run goes on.
    """

    def __init__(self, run: Run):
        self.run, self._inner = run, run.reporter
        self.registry = CollectorRegistry()
        self.usage: Callable[[], Usage] | None = None
        self.exit_status: int | None = None
        self.ended_at: float | None = None
        self.on_stage: Callable[[], None] = lambda: None
        self._name = run.config.name
        self._lock = threading.Lock()
        self._total: dict[str, int] = {}
        self._settled: Tally[str] = Tally()
        self._lookups = Counter(
            "faceid_cache_lookups",
            "Results that were looked up in the store, by stage; a hit is not computed again.",
            ("run_name", "stage", "result"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "faceid_stage_seconds",
            "Seconds that a result took in its worker, by stage.",
            ("run_name", "stage"),
            buckets=STAGE_SECONDS,
            registry=self.registry,
        )
        self._retries = Counter(
            "faceid_retries",
            "Attempts beyond the first, by stage; those that a lost worker cost are among them.",
            ("run_name", "stage"),
            registry=self.registry,
        )
        for stage in STAGES:  # a series that begins at 0 shows its first event
            for result in ("hit", "miss"):
                self._lookups.labels(self._name, stage, result)
            self._seconds.labels(self._name, stage)
            self._retries.labels(self._name, stage)
        self.registry.register(_Present(self))

    def looked_up(self, stage: str, *, hits: int, misses: int) -> None:
        """See Reporter."""
        self._lookups.labels(self._name, stage, "hit").inc(hits)
        self._lookups.labels(self._name, stage, "miss").inc(misses)
        with self._lock:  # scores may be settled before their stage is looked up
            self._total[stage] = self._settled[stage] + misses
        self.on_stage()
        self._inner.looked_up(stage, hits=hits, misses=misses)

    def progressed(self, subject: str, done: int, total: int | None) -> None:
        """See Reporter."""
        self._inner.progressed(subject, done, total)

    def settled(self, stage: str, done: Done) -> None:
        """See Reporter."""
        with self._lock:
            self._settled[stage] += 1
            is_early = stage not in self._total
        if is_early:  # it was looked up beside an earlier stage, and missed
            self._lookups.labels(self._name, stage, "miss").inc()
        if done.status in ("done", "rejected"):
            self._seconds.labels(self._name, stage).observe(done.seconds)
        self._retries.labels(self._name, stage).inc(max(0, done.attempts - 1))
        self._inner.settled(stage, done)

    def note(self, text: str) -> None:
        """See Reporter."""
        self._inner.note(text)

    def queue(self) -> dict[str, int]:
        """How many results of each stage are still to be computed, as far as the stage was looked up."""
        with self._lock:
            return {stage: max(0, self._total.get(stage, 0) - self._settled[stage]) for stage in STAGES}

    def workers(self) -> Usage:
        """The workers' usage now, or after they were closed what it came to."""
        now = self.usage() if self.usage is not None else Usage()
        return now if now.idle else self.run.usage


class _Present(Collector):
    """What is read from the run when it is asked for: outcomes, queue, workers, the store's requests."""

    def __init__(self, metrics: RunMetrics):
        self._metrics, self._run = metrics, metrics.run
        self._name = metrics.run.config.name

    def describe(self) -> list[Metric]:
        """Nothing: a registry otherwise collects once when it is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        yield from self._of_the_run()
        yield from self._of_identities()
        yield from self._of_workers()
        yield self._requests()

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=("run_name",))
        family.add_metric((self._name,), value)
        return family

    def _of_the_run(self) -> Iterator[Metric]:
        run, metrics = self._run, self._metrics
        info = GaugeMetricFamily(
            "faceid_run_info", "Always 1; the label run is the run's id.", labels=("run_name", "run")
        )
        info.add_metric((self._name, run.run_id), 1)
        yield info
        yield self._gauge(
            "faceid_run_start_timestamp_seconds",
            "When the run began, since 1970.",
            run.started_at.timestamp(),
        )
        yield self._gauge(
            "faceid_run_written_timestamp_seconds", "When these figures were read, since 1970.", time.time()
        )
        if metrics.ended_at is not None:
            yield self._gauge(
                "faceid_run_end_timestamp_seconds", "When the run ended, since 1970.", metrics.ended_at
            )
        if metrics.exit_status is not None:
            yield self._gauge(
                "faceid_run_exit_status",
                "How the run ended: 0 complete, 2 too many failures; absent after an interruption.",
                metrics.exit_status,
            )

    def _of_identities(self) -> Iterator[Metric]:
        reports = list(self._run.outcome_reports.values())
        yield self._gauge("faceid_identities_requested", "People of the run.", len(reports))
        counts = tally(reports)
        outcomes = CounterMetricFamily(
            "faceid_identities",
            "People whose outcome is known, by outcome; done and cached are known at the run's end.",
            labels=("run_name", "outcome"),
        )
        for outcome in Outcome:
            outcomes.add_metric((self._name, str(outcome)), counts[str(outcome)])
        yield outcomes
        weak = sum(bool(report.weak) for report in reports)
        yield self._gauge(
            "faceid_weak_identities",
            "People whose images are not surely more like the photo than the class word's; known at the run's end.",
            weak,
        )

    def _of_workers(self) -> Iterator[Metric]:
        queue = GaugeMetricFamily(
            "faceid_queue_length",
            "Results that are being computed or wait for a worker, by stage.",
            labels=("run_name", "stage"),
        )
        for stage, length in self._metrics.queue().items():
            queue.add_metric((self._name, stage), length)
        yield queue
        usage = self._metrics.workers()
        idle = usage.idle
        yield self._gauge("faceid_workers", "Workers of the run.", len(idle))
        if idle:
            yield self._gauge(
                "faceid_worker_idle_ratio",
                "Share of the workers' time since they were ready in which they had no work, mean over workers.",
                sum(idle) / len(idle),
            )
        replaced = CounterMetricFamily(
            "faceid_workers_replaced", "Workers that died or hung and were replaced.", labels=("run_name",)
        )
        replaced.add_metric((self._name,), usage.replaced)
        yield replaced

    def _requests(self) -> Metric:
        family = CounterMetricFamily(
            "faceid_store_requests",
            "Requests of this process to the store; absent: nothing lies there, conflict: another writer was first.",
            labels=("run_name", "operation", "outcome"),
        )
        counts = REQUESTS.snapshot()
        for operation in OPERATIONS:
            for outcome in OUTCOMES:  # a series that begins at 0 shows its first event
                family.add_metric((self._name, operation, outcome), counts.get((operation, outcome), 0))
        return family
