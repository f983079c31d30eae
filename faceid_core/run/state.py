"""A run in memory: looks stages up, hands misses to an executor, and keeps everybody's account."""

from __future__ import annotations

import datetime as dt
import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from threading import Event, RLock

from faceid_core.config import NightlyConfig
from faceid_core.errors import StoreError
from faceid_core.identity import Identity
from faceid_core.outcomes import Account, Outcome
from faceid_core.run.executor import Executor, Usage
from faceid_core.run.lookup import look_up
from faceid_core.run.people import reject
from faceid_core.run.photo_source import PhotoSource, put_photo, put_photos
from faceid_core.run.prefetch import in_background, past_end_of_admissions
from faceid_core.run.repair import Repair
from faceid_core.run.reporter import Reporter
from faceid_core.stages.files import REJECTION, read_rejection
from faceid_core.stages.plan import Plan
from faceid_core.stages.planning import plan_works
from faceid_core.stages.work import MADE_ELSEWHERE, Done, Subject, Work, pipeline_stage
from faceid_core.store import Manifest, ObjectStore, RunLease, StageCache
from faceid_core.store.secret import IdentitySecret

log = logging.getLogger(__name__)

# Whoever has tokens when finish_by passes is drawn and scored still; nobody new is started.
ADMITTING_STAGES = ("detect", "parse", "mask", "personalize")


@dataclass
class Run:
    """Everything that one run knows; made by `open_run`, driven stage by stage by a flow.

    `failures_common` collects what went wrong with floor and ceiling, which belong to no person's account.
    `cancelled` is set when the run is interrupted: nothing more is started. `lease` is the right to run on the store,
    which `drive` gives back; a dry run has none. `usage` is what became of the workers, if any had to be started.
    `learned_only`: no identity is taught; one without tokens in the store is not reached. `began` is the start by the
    monotonic clock, for durations. `published` is what the last status says of its publication, once that stands.
    `ended`, under `ending`: whether its account stands, of a run that ran to its end or of one that was interrupted.
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
    accounts: dict[str, Account]
    identities: dict[str, Identity]
    photos: PhotoSource
    reporter: Reporter
    lease: RunLease | None = None
    learned_only: bool = False
    failures_common: dict[str, str] = field(default_factory=dict)
    computed: Counter = field(default_factory=Counter)
    cancelled: Event = field(default_factory=Event, repr=False)
    usage: Usage = field(default_factory=Usage)
    began: float = field(default_factory=time.monotonic)
    published: Mapping[str, int | str] | None = None
    ended: bool = False
    ending: RLock = field(default_factory=RLock, repr=False)
    _ahead: dict[str, Future] = field(default_factory=dict, repr=False)
    _lock: RLock = field(default_factory=RLock, repr=False)
    _answered: set[tuple[str, str]] = field(default_factory=set, repr=False)
    _repairs: RLock = field(default_factory=RLock, repr=False)
    _books_closed: bool = field(default=False, repr=False)

    def release(self) -> None:
        """Let the next run in; safe to call twice."""
        if self.lease is not None:
            self.lease.release()

    def close_books(self) -> None:
        """Enter no further outcome: the account is being written, and workers may still answer."""
        with self._lock:
            self._books_closed = True

    def alive(self) -> list[Subject]:
        """Subjects that later stages still concern, people first, in the manifest's order."""
        return [
            subject
            for subject in self.subjects.values()
            if (
                self.accounts[subject.name].alive
                if subject.kind == "person"
                else subject.name not in self.failures_common
            )
        ]

    def lookup(self, stage: str) -> list[Work]:
        """Look the stage up for everybody alive; adopt hits, return the misses.

        Reads manifests only. A cached rejection closes the person's account just as a fresh one does; whoever lacks
        the result of an earlier stage is closed as failed there, and the others go on.

        Args:
            stage: One of STAGES.
        """
        ahead = self._ahead.pop(stage, None)
        misses = ahead.result() if ahead is not None else look_up(self, stage)
        early = sum("score-" in result for _, result in self._answered) if stage == "score" else 0
        if early:
            self.reporter.note(f"score: {early} results were computed while pictures were drawn")
        return misses

    def look_ahead(self, stage: str, on_misses: Callable[[], object]) -> None:
        """Look a stage up in the background; `lookup` of it then takes the answer found here.

        Args:
            stage: the first one, whose inputs are there when the run is opened.
            on_misses: called in the background as soon as something is found that has to be computed.
        """
        self._ahead[stage] = in_background(lambda: look_up(self, stage), on_misses)

    def adopt(self, subject: Subject, result: str, manifest: Manifest) -> None:
        """Keep a manifest; a rejection among its outputs ends the person's way.

        Raises:
            DamagedInput: the rejection cannot be read any more.
        """
        record = None
        if REJECTION in manifest.outputs:
            record = read_rejection(manifest, StageCache(self.store, subject.scope).read(manifest, REJECTION))
        with self._lock:
            if self._books_closed:
                return
            subject.manifests[result] = manifest
            if subject.kind == "class_word" and result == "generate":
                self.plan.floors[subject.class_word] = manifest
            if subject.kind == "person":
                account = self.accounts[subject.name]
                account.stage_keys[result] = manifest.stage_key
                if record:
                    figures = record["value"], record["threshold"]
                    reject(account, manifest.stage, record["reason"], record["sentence"], *figures)
            elif record:
                self.failures_common[subject.name] = record["sentence"]

    def execute(self, stage: str, works: Sequence[Work], executor: Executor) -> list[Done]:
        """Run misses of one stage; each work gets exactly one outcome, whatever happens.

        Damaged inputs are made again and their consumers run anew.
        """
        settled: list[Done] = []
        damaged: list[Done] = []
        ahead: list[Work] = []

        def on_done(done: Done) -> Sequence[Work]:
            if done.status == "damaged":
                damaged.append(done)
                return ()
            done = self.settle(_group(done.work), done)
            settled.append(done)
            following = self._scores_of(done) if executor.overlaps and stage == "generate" else ()
            ahead.extend(following)
            return following

        def stop() -> bool:
            return self.cancelled.is_set() or (stage in ADMITTING_STAGES and self.past_finish_by())

        error: Exception | None = None
        try:
            if stage == "detect":
                works, refused = put_photos(self, works)
                for done in refused:
                    on_done(done)
            executor.execute(works, self.reporter.progressed, on_done, stop)
            for done in damaged:
                group = _group(done.work)
                settled.append(self.settle(group, Repair(self, executor).consumer(group, done)))
        except Exception as broken:
            told = f"{type(broken).__name__}: {self._without_photos(str(broken))}"
            if self.cancelled.is_set():  # its workers are being closed, or were stopped with it
                log.info("stage %s was stopped: %s", stage, told)
            else:
                where = "".join(traceback.format_tb(broken.__traceback__))
                log.error("stage %s broke: %s\n%s", stage, told, where)
            error = broken
        finally:
            self.usage = executor.usage()
        message = "the executor gave no answer"
        if error:
            message = f"{type(error).__name__}: {self._without_photos(str(error))}"
        return (
            settled
            + self.settle_unanswered(stage, works, message)
            + self.settle_unanswered("score", ahead, message)
        )

    def _scores_of(self, done: Done) -> list[Work]:
        """What can be scored as soon as a subject is drawn; what needs floor pictures that are not there waits.

        Nothing is looked up: what was drawn just now was hardly ever scored before, and scoring twice harms nothing.
        """
        if done.status != "done" or done.work.result != "generate":
            return []
        subject = self.subjects[done.work.subject]
        forced = self.plan.forces("score", subject)
        return [replace(work, replace=forced) for work in plan_works(self.plan, "score", subject)]

    def _without_photos(self, text: str) -> str:
        """An unexpected error's text without where photos lie: it goes to logs and Prefect, and a path may be an id."""
        for identity in self.identities.values():
            for address in filter(None, (identity.photo, identity.subject_mask)):
                for part in (address, PurePath(address).name):
                    text = text.replace(part, "(a photo)")
        return text

    def answered(self, subject: str, result: str) -> bool:
        """Whether a piece of work has had its outcome in this run."""
        return (subject, result) in self._answered

    def settle_unanswered(self, stage: str, works: Sequence[Work], message: str) -> list[Done]:
        """Enter a failure for every work that has no outcome yet: whatever ran it cannot answer any more."""
        left = [work for work in works if not self.answered(work.subject, work.result)]
        return [self.settle(stage, Done(work, "failed", "no_outcome", message)) for work in left]

    def put_photo(self, subject: Subject) -> None:
        """Copy a subject's photo to where workers read it; raises as `photo_source.put_photo` does."""
        put_photo(self, subject.name)

    def settle(self, stage: str, done: Done) -> Done:
        """Enter an outcome into the account and adopt its manifest."""
        subject = self.subjects[done.work.subject]
        if done.status in ("done", "rejected"):
            done = self._with_manifest(subject, done)
        with self._lock:
            if self._books_closed:
                self._answered.add((subject.name, done.work.result))
                return done
            here = done.reason != MADE_ELSEWHERE
            self.computed[done.work.call.stage] += here and done.status == "done"
            if subject.kind == "person":
                account = self.accounts[subject.name]
                account.seconds += done.seconds
                account.attempts = max(account.attempts, done.attempts)
                account.computed = account.computed or (here and done.status in ("done", "rejected"))
            if done.status not in ("done", "rejected"):
                self._close(subject, done)
            self._answered.add((subject.name, done.work.result))
        self.reporter.settled(stage, done)
        return done

    def _with_manifest(self, subject: Subject, done: Done) -> Done:
        """Adopt what a worker committed; a result that is not in the store is no result."""
        call = done.work.call
        try:
            manifest = StageCache(self.store, subject.scope).by_key(call.stage, call.key)
            if manifest is not None:
                self.adopt(subject, done.work.result, manifest)
                return done
            if done.status == "rejected" and subject.kind == "person":  # the photo never reached the store
                with self._lock:
                    if not self._books_closed:
                        figures = done.value, done.threshold
                        reject(self.accounts[subject.name], call.stage, done.reason, done.message, *figures)
                return done
            message = "its result was not in the store"
        except StoreError as error:  # a damaged rejection, or a store that does not answer
            message = str(error)
        return replace(done, status="failed", reason="result_missing", message=message)

    def fail(self, subject: Subject, stage: str, reason: str, message: str) -> None:
        """Close a subject outside any piece of work."""
        with self._lock:
            if self._books_closed:
                return
            if subject.kind == "person":
                self.accounts[subject.name].close(Outcome.FAILED, stage=stage, reason=reason, message=message)
            else:
                self.failures_common[subject.name] = f"{stage}: {message}"

    def _close(self, subject: Subject, done: Done) -> None:
        if subject.kind != "person":
            self.failures_common[subject.name] = f"{done.work.call.stage}: {done.message}"
            return
        outcomes = {"not_reached": Outcome.NOT_REACHED, "refused": Outcome.REFUSED}
        self.accounts[subject.name].close(
            outcomes.get(done.status, Outcome.FAILED),
            stage=done.work.call.stage,
            reason=done.reason,
            message=done.message,
        )

    def finish(self) -> None:
        """Close every account that met no obstacle; one that lacks a result is a failure, never a success."""
        for account in self.accounts.values():
            missing = self.missing(account)
            if account.alive and missing:
                account.close(
                    Outcome.FAILED,
                    stage=missing[0],
                    reason="no_outcome",
                    message=f"no result of {', '.join(missing)}; run again",
                )
            account.finish()

    def missing(self, account: Account) -> list[str]:
        """The results that a person needs to count as finished and does not have."""
        wanted = {"generate", *(f"score-{metric}" for metric in self.config.score.metrics)}
        return sorted(wanted - set(account.stage_keys))

    def past_finish_by(self) -> bool:
        """Whether the end of admissions has passed: the first such time of day after the scheduled start.

        Asked of the wall clock each time, so that one which is set right in the run counts as it is then.
        """
        return past_end_of_admissions(self.config, self.scheduled_at)

    def seconds(self) -> float:
        """How long the run has been going on, whatever was done to the machine's clock."""
        return time.monotonic() - self.began


def _group(work: Work) -> str:
    """The stage of STAGES that a work belongs to."""
    return pipeline_stage(work.call.stage)
