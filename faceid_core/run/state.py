"""The state of one run in memory: its identities, what became of each, and the results that were found or computed."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from threading import Event, RLock

from faceid_core.config import NightlyConfig
from faceid_core.errors import StoreError
from faceid_core.identity import Identity
from faceid_core.outcomes import Outcome, OutcomeReport
from faceid_core.run.executor import Usage
from faceid_core.run.photo_source import PhotoSource
from faceid_core.run.reporter import Reporter
from faceid_core.stages import STAGES
from faceid_core.stages.files import REJECTION, read_rejection
from faceid_core.stages.plan import Plan
from faceid_core.stages.work import MADE_ELSEWHERE, Done, Subject, Work, is_score
from faceid_core.store import Manifest, ObjectStore, RunLease, StageCache
from faceid_core.store.secret import IdentitySecret

STORE_THREADS = 16  # that read the store at once
# These lead to an identity's tokens. After finish_by, and in an evaluation, no identity is started on them.
LEARNING_STAGES = STAGES[: STAGES.index("generate")]


@dataclass
class Run:
    """Everything that one run knows; `open_run` makes it, and a flow drives it stage by stage.

    Attributes:
        failures_common: What went wrong with floor and ceiling, which belong to no identity's outcome report.
        lease: The right to run on the store, which `drive` gives back; a dry run has none.
        evaluation_only: No identity is personalized; one without tokens in the store is not reached.
        left_out: A sentence on what the folder of photos holds besides the identities; empty if nothing.
        computed: How many results of each stage were computed here.
        cancelled: Set when the run is interrupted: nothing more is started.
        usage: What became of the workers, if any had to be started.
        began: The start by the monotonic clock, for durations.
        published: What the last status says of the publication, once that stands.
        ended: Whether the outcome reports stand; read and set under `ending`.
        prefetched: Lookups that are under way in the background, by stage.
        repairing: Held while damaged inputs are made again, so that two consumers share one repair.
    """

    run_id: str
    run_date: dt.date
    scheduled_at: dt.datetime
    started_at: dt.datetime
    config: NightlyConfig
    plan: Plan
    store: ObjectStore
    secret: IdentitySecret
    subjects: dict[str, Subject]
    outcome_reports: dict[str, OutcomeReport]
    identities: dict[str, Identity]
    photos: PhotoSource
    reporter: Reporter
    lease: RunLease | None = None
    evaluation_only: bool = False
    left_out: str = ""
    failures_common: dict[str, str] = field(default_factory=dict)
    computed: Counter = field(default_factory=Counter)
    cancelled: Event = field(default_factory=Event, repr=False)
    usage: Usage = field(default_factory=Usage)
    began: float = field(default_factory=time.monotonic)
    published: Mapping[str, int | str] | None = None
    ended: bool = False
    ending: RLock = field(default_factory=RLock, repr=False)
    prefetched: dict[str, Future] = field(default_factory=dict, repr=False)
    repairing: RLock = field(default_factory=RLock, repr=False)
    _lock: RLock = field(default_factory=RLock, repr=False)
    _settled: set[tuple[str, str]] = field(default_factory=set, repr=False)
    _frozen: bool = field(default=False, repr=False)
    _cleaned: dict[str, str] = field(default_factory=dict, repr=False)
    _took_floor_and_ceiling: bool = field(default=False, repr=False)

    def release(self) -> None:
        """Give the lease back, so that the next run can start; safe to call twice."""
        if self.lease is not None:
            self.lease.release()

    def freeze_outcomes(self) -> None:
        """Enter no further outcome: the outcome reports are being written, and workers may still answer."""
        with self._lock:
            self._frozen = True

    def active_subjects(self) -> list[Subject]:
        """Subjects that later stages still concern, identities first, in the manifest's order."""
        return [
            subject
            for subject in self.subjects.values()
            if (
                self.outcome_reports[subject.name].alive
                if subject.kind == "person"
                else subject.name not in self.failures_common
            )
        ]

    def adopt(self, subject: Subject, result: str, manifest: Manifest) -> None:
        """Keep a manifest; a rejection among its outputs closes the identity's outcome report.

        Raises:
            DamagedInput: the rejection cannot be read.
        """
        record = None
        if REJECTION in manifest.outputs:
            record = read_rejection(manifest, StageCache(self.store, subject.scope).read(manifest, REJECTION))
        with self._lock:
            if self._frozen:
                return
            subject.manifests[result] = manifest
            if subject.kind == "class_word" and result == "generate":
                self.plan.floors[subject.class_word] = manifest
            if subject.kind == "person":
                outcome_report = self.outcome_reports[subject.name]
                outcome_report.stage_keys[result] = manifest.stage_key
                if record:
                    figures = record["value"], record["threshold"]
                    outcome_report.reject(manifest.stage, record["reason"], record["sentence"], *figures)
            elif record:
                self.failures_common[subject.name] = record["sentence"]

    def without_photos(self, text: str) -> str:
        """An unexpected error's text without photos' paths: it goes to logs and Prefect, and a path may be an id."""
        with self._lock:
            if text not in self._cleaned:  # what breaks breaks many chunks, with the same words
                cleaned = text
                for identity in self.identities.values():
                    for address in filter(None, (identity.photo, identity.subject_mask)):
                        for part in (address, PurePath(address).name):
                            cleaned = cleaned.replace(part, "(a photo)")
                self._cleaned[text] = cleaned
            return self._cleaned[text]

    def is_settled(self, subject: str, result: str) -> bool:
        """Whether a piece of work has its outcome in this run."""
        return (subject, result) in self._settled

    def early_scores(self) -> int:
        """How many scores have an outcome: before the score stage, those computed while pictures were drawn."""
        return sum(is_score(result) for _, result in self._settled)

    def take_floor_and_ceiling(self) -> bool:
        """Whether the caller is the first to ask, and so draws what needs no person's tokens."""
        with self._lock:
            first, self._took_floor_and_ceiling = not self._took_floor_and_ceiling, True
        return first

    def fail_unsettled(self, stage: str, works: Sequence[Work], message: str) -> list[Done]:
        """Enter a failure for every work without an outcome: what ran it cannot answer any more."""
        left = [work for work in works if not self.is_settled(work.subject, work.result)]
        return [self.settle(stage, Done(work, "failed", "no_outcome", message)) for work in left]

    def settle(self, stage: str, done: Done) -> Done:
        """Enter an outcome into the identity's outcome report and adopt its manifest.

        Args:
            stage: One of STAGES.
            done: What became of a piece of work.

        Returns:
            The outcome that was entered: a failure where the result is not in the store.
        """
        subject = self.subjects[done.work.subject]
        if done.status in ("done", "rejected"):
            done = self._with_manifest(subject, done)
        with self._lock:
            if self._frozen:
                self._settled.add((subject.name, done.work.result))
                return done
            here = done.reason != MADE_ELSEWHERE
            self.computed[done.work.call.stage] += here and done.status == "done"
            if subject.kind == "person":
                outcome_report = self.outcome_reports[subject.name]
                outcome_report.seconds += done.seconds
                outcome_report.attempts = max(outcome_report.attempts, done.attempts)
                outcome_report.computed = outcome_report.computed or (here and done.status in ("done", "rejected"))
            if done.status not in ("done", "rejected"):
                self._close(subject, done)
            self._settled.add((subject.name, done.work.result))
        self.reporter.settled(stage, done)
        return done

    def _with_manifest(self, subject: Subject, done: Done) -> Done:
        """Adopt what a worker committed; an outcome whose result is not in the store becomes a failure."""
        call = done.work.call
        try:
            manifest = StageCache(self.store, subject.scope).lookup(call)
            if manifest is not None:
                self.adopt(subject, done.work.result, manifest)
                return done
            if done.status == "rejected" and subject.kind == "person":  # the photo never reached the store
                with self._lock:
                    if not self._frozen:
                        figures = done.value, done.threshold
                        self.outcome_reports[subject.name].reject(call.stage, done.reason, done.message, *figures)
                return done
            message = "its result was not in the store"
        except StoreError as error:  # a damaged rejection, or a store that does not answer
            message = str(error)
        return replace(done, status="failed", reason="result_missing", message=message)

    def fail(self, subject: Subject, stage: str, reason: str, message: str) -> None:
        """Close a subject outside any piece of work."""
        with self._lock:
            if self._frozen:
                return
            if subject.kind == "person":
                self.outcome_reports[subject.name].close(Outcome.FAILED, stage=stage, reason=reason, message=message)
            else:
                self.failures_common[subject.name] = f"{stage}: {message}"

    def _close(self, subject: Subject, done: Done) -> None:
        if subject.kind != "person":
            self.failures_common[subject.name] = f"{done.work.call.stage}: {done.message}"
            return
        outcomes = {"not_reached": Outcome.NOT_REACHED, "refused": Outcome.REFUSED}
        self.outcome_reports[subject.name].close(
            outcomes.get(done.status, Outcome.FAILED),
            stage=done.work.call.stage,
            reason=done.reason,
            message=done.message,
        )

    def finish(self) -> None:
        """Close every outcome report that is still open; one that lacks a result is a failure, never a success."""
        for outcome_report in self.outcome_reports.values():
            missing = self.missing_results(outcome_report)
            if outcome_report.alive and missing:
                outcome_report.close(
                    Outcome.FAILED,
                    stage=missing[0],
                    reason="no_outcome",
                    message=f"no result of {', '.join(missing)}; run again",
                )
            outcome_report.finish()

    def missing_results(self, outcome_report: OutcomeReport) -> list[str]:
        """The results that an identity needs to count as finished and does not have."""
        wanted = {"generate", *(f"score-{metric}" for metric in self.config.score.metrics)}
        return sorted(wanted - set(outcome_report.stage_keys))

    def past_finish_by(self) -> bool:
        """Whether `run.finish_by` has passed by the wall clock."""
        return past_finish_by(self.config, self.scheduled_at)

    def seconds(self) -> float:
        """How long the run has been going on, whatever was done to the machine's clock."""
        return time.monotonic() - self.began


def finish_by_moment(config: NightlyConfig, scheduled_at: dt.datetime) -> dt.datetime | None:
    """`run.finish_by` as a moment: the first such time of day after the scheduled start; None if there is none."""
    finish_by = config.run.finish_by
    if finish_by is None:
        return None
    zone = config.run.zone
    start = scheduled_at.astimezone(zone)
    end = dt.datetime.combine(start.date(), finish_by, tzinfo=zone)
    if end <= start:  # 06:00 for a run that was to begin at 22:00 is tomorrow's
        end += dt.timedelta(days=1)
    # Two times of one zone are compared as they read, and an hour of autumn reads the same twice.
    return end.astimezone(dt.UTC)


def past_finish_by(config: NightlyConfig, scheduled_at: dt.datetime) -> bool:
    """Whether `run.finish_by` has passed by the wall clock.

    The clock is read at each call, so that one which is set right during the run counts from then on.
    """
    end = finish_by_moment(config, scheduled_at)
    return end is not None and dt.datetime.now(dt.UTC) >= end
