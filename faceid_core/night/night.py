"""A night in memory: looks stages up, hands misses to an executor, repairs damaged inputs, keeps the account."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

from faceid_core.config import NightlyConfig
from faceid_core.errors import PhotoRejected
from faceid_core.identity import Identity
from faceid_core.night.executor import Executor
from faceid_core.night.people import put_photo, reject
from faceid_core.night.reporter import Reporter
from faceid_core.outcomes import Account, Outcome
from faceid_core.stages import STAGES
from faceid_core.stages.files import REJECTION, read_json
from faceid_core.stages.plan import Plan
from faceid_core.stages.work import Done, Source, Subject, Work
from faceid_core.store import ObjectStore, StageCache
from faceid_core.store.secret import IdentitySecret

LOOKUP_THREADS = 16


@dataclass
class Night:
    """Everything that one run knows; made by `open_night`, driven stage by stage by a flow.

    `failures_common` collects what went wrong with floor and ceiling, which belong to no person's account.
    """

    run_id: str
    run_date: dt.date
    started_at: dt.datetime
    config: NightlyConfig
    plan: Plan
    store: ObjectStore
    secret: IdentitySecret
    subjects: dict[str, Subject]
    accounts: dict[str, Account]
    identities: dict[str, Identity]
    reporter: Reporter
    failures_common: dict[str, str] = field(default_factory=dict)
    computed: Counter = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def alive(self) -> list[Subject]:
        """Subjects that later stages still concern, people first, in the manifest's order."""
        return [s for s in self.subjects.values() if self._alive(s)]

    def _alive(self, subject: Subject) -> bool:
        if subject.kind == "person":
            return self.accounts[subject.name].alive
        return subject.name not in self.failures_common

    def lookup(self, stage: str, *, without: Collection[str] = ()) -> list[Work]:
        """Look the stage up for everybody alive; adopt hits, return the misses.

        Reads manifests only. A cached rejection closes the person's account just as a fresh one does.

        Args:
            stage: One of STAGES.
            without: Subjects whose earlier stages are not there yet (a dry run's), to be left out.
        """
        subjects = [subject for subject in self.alive() if subject.name not in without]
        with ThreadPoolExecutor(LOOKUP_THREADS) as threads:
            found = list(threads.map(lambda subject: self._lookup_one(stage, subject), subjects))
        misses = [work for works in found for work in works]
        self.reporter.looked_up(stage, hits=self._hits(stage, subjects), misses=len(misses))
        return misses

    def _hits(self, stage: str, subjects: Sequence[Subject]) -> int:
        return sum(
            result.split("-")[0] in (stage, f"floor_{stage}") for s in subjects for result in s.manifests
        )

    def _lookup_one(self, stage: str, subject: Subject) -> list[Work]:
        misses = []
        cache = StageCache(self.store, subject.scope)
        for work in self.plan.works(stage, subject):
            if self._forced(stage, subject):
                misses.append(Work(**{**work.__dict__, "replace": True}))
            elif manifest := cache.lookup(work.call):
                self._adopt(subject, work.result, manifest)
            else:
                misses.append(work)
        return misses

    def _forced(self, stage: str, subject: Subject) -> bool:
        run = self.config.run
        if not run.force or subject.kind != "person":
            return False
        return run.from_stage is None or STAGES.index(stage) >= STAGES.index(run.from_stage)

    def _adopt(self, subject: Subject, result: str, manifest) -> None:
        """Keep a manifest; a rejection among its outputs ends the person's way."""
        subject.manifests[result] = manifest
        if subject.kind == "class_word" and result == "generate":
            self.plan.floors[subject.class_word] = manifest
        if subject.kind == "person":
            self.accounts[subject.name].stage_keys[result] = manifest.stage_key
        if REJECTION in manifest.outputs:
            record = read_json(StageCache(self.store, subject.scope).read(manifest, REJECTION))
            if subject.kind == "person":
                reject(
                    self.accounts[subject.name],
                    manifest.stage,
                    record["reason"],
                    record["sentence"],
                    record["value"],
                    record["threshold"],
                )
            else:
                self.failures_common[subject.name] = record["sentence"]

    def execute(self, stage: str, works: Sequence[Work], executor: Executor) -> list[Done]:
        """Run misses of one stage; damaged inputs are repaired once and their consumer is run again."""
        if self.past_finish_by():
            dones = [
                Done(w, "not_reached", reason="deadline", message="finish_by passed before it began")
                for w in works
            ]
            for done in dones:
                self._settle(stage, done)
            return dones
        settled: list[Done] = []
        damaged: list[Done] = []

        def on_done(done: Done) -> None:
            if done.status == "damaged":
                damaged.append(done)
            else:
                settled.append(self._settle(stage, done))

        if stage == "detect":
            works = self._with_photos(works, settled)
        executor.execute(works, self.reporter.tick, on_done)
        for done in list(damaged):
            again = self._repair(stage, done, executor)
            if again is not None:
                executor.execute([again], self.reporter.tick, settled_only := _Collect())
                settled.append(self._settle(stage, settled_only.last))
            else:
                settled.append(self._settle(stage, _as_failure(done)))
        return settled

    def _with_photos(self, works: Sequence[Work], settled: list[Done]) -> list[Work]:
        """Copy the photos that are about to be read into the store."""
        kept = []
        for work in works:
            subject = self.subjects[work.subject]
            if subject.kind == "person":
                try:
                    put_photo(
                        self.identities[subject.name],
                        subject,
                        self.store,
                        max_bytes=self.config.faces.max_photo_bytes,
                    )
                except PhotoRejected as rejection:
                    done = Done(work, "rejected", rejection.reason, rejection.sentence)
                    settled.append(self._settle("detect", done))
                    continue
            kept.append(work)
        return kept

    def _settle(self, stage: str, done: Done) -> Done:
        """Enter an outcome into the account and adopt its manifest."""
        subject = self.subjects[done.work.subject]
        with self._lock:
            self.computed[done.work.call.stage] += done.status == "done"
            if subject.kind == "person":
                account = self.accounts[subject.name]
                account.seconds += done.seconds
                account.attempts = max(account.attempts, done.attempts)
                account.computed = account.computed or done.status in ("done", "rejected")
            if done.status in ("done", "rejected"):
                call = done.work.call
                manifest = StageCache(self.store, subject.scope).by_key(call.stage, call.key)
                if manifest is not None:
                    self._adopt(subject, done.work.result, manifest)
                elif done.status == "rejected" and subject.kind == "person":
                    reject(
                        self.accounts[subject.name],
                        stage,
                        done.reason,
                        done.message,
                        done.value,
                        done.threshold,
                    )
                else:
                    done = _as_failure(done)
            if done.status in ("failed", "not_reached", "refused", "damaged"):
                self._close(subject, stage, done)
        self.reporter.settled(stage, done)
        return done

    def _close(self, subject: Subject, stage: str, done: Done) -> None:
        if subject.kind != "person":
            self.failures_common[subject.name] = f"{done.work.call.stage}: {done.message}"
            return
        outcome = {"not_reached": Outcome.NOT_REACHED, "refused": Outcome.REFUSED}.get(
            done.status, Outcome.FAILED
        )
        self.accounts[subject.name].close(
            outcome, stage=done.work.call.stage, reason=done.reason, message=done.message
        )

    def _repair(self, stage: str, done: Done, executor: Executor) -> Work | None:
        """Quarantine what a damaged input came from, make it again, and return the consumer's work anew."""
        subject, consumer = self.subjects[done.work.subject], done.work
        for _ in STAGES:
            source = done.damaged
            assert source is not None
            self.reporter.note(f"{subject.name}: input of {stage} is damaged; making {source.stage} again")
            producer = self._quarantine(subject, source)
            if producer is None:
                return self._same_work(stage, consumer)
            executor.execute([producer], self.reporter.tick, collect := _Collect())
            done = collect.last
            if done.status == "damaged":
                continue
            settled = self._settle(source.stage, done)
            return self._same_work(stage, consumer) if settled.status == "done" else None
        return None

    def _quarantine(self, consumer: Subject, source: Source) -> Work | None:
        """Move the producer's manifest aside; return its work, or None when a photo was simply put again."""
        cache = StageCache(self.store, source.scope)
        owner = next(
            (s for s in self.subjects.values() if s.scope == source.scope and _made(s, source)), consumer
        )
        if source.stage == "photo":  # putting it again replaces a damaged copy
            if owner.kind == "person":
                put_photo(
                    self.identities[owner.name],
                    owner,
                    self.store,
                    max_bytes=self.config.faces.max_photo_bytes,
                )
            return None
        manifest = cache.by_key(source.stage, source.stage_key)
        if manifest is not None:
            cache.quarantine(manifest, "a consumer found an output damaged")
        stage = "score" if source.stage.startswith("score-") else source.stage
        return next(w for w in self.plan.works(stage, owner) if w.call.key == source.stage_key)

    def _same_work(self, stage: str, work: Work) -> Work | None:
        """The consumer's work planned anew, because its input digests may have changed."""
        subject = self.subjects[work.subject]
        group = "score" if stage.startswith("score") else stage
        return next((w for w in self.plan.works(group, subject) if w.result == work.result), None)

    def past_finish_by(self) -> bool:
        """Whether the configured end of admissions has passed, in the schedule's timezone."""
        finish_by = self.config.run.finish_by
        if finish_by is None:
            return False
        now = dt.datetime.now(self.config.run.zone)
        start = self.started_at.astimezone(self.config.run.zone)
        end = dt.datetime.combine(start.date(), finish_by, tzinfo=self.config.run.zone)
        if end <= start:  # 06:00 for a night that began at 22:00 is tomorrow's
            end += dt.timedelta(days=1)
        return now >= end


class _Collect:
    """Takes the outcomes of a single work."""

    last: Done

    def __call__(self, done: Done) -> None:
        self.last = done


def _made(subject: Subject, source: Source) -> bool:
    if source.stage == "photo":
        return subject.photo_digest == source.digest
    return any(m.stage_key == source.stage_key for m in subject.manifests.values())


def _as_failure(done: Done) -> Done:
    return Done(
        **{**done.__dict__, "status": "failed", "message": done.message or "its result was not in the store"}
    )
