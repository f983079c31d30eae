"""Execution: run the misses of a stage, give each its outcome, and make damaged inputs again."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from faceid_core import photos
from faceid_core.errors import DamagedInput, FaceidError, PhotoRejected, StoreError
from faceid_core.run.executor import Executor
from faceid_core.run.lookup import lookup_floor_and_ceiling
from faceid_core.run.photo_source import mask_of
from faceid_core.run.state import LEARNING_STAGES, STORE_THREADS, Run
from faceid_core.stages import STAGES
from faceid_core.stages.name_prior import SUBJECT as KNOWN_NAMES
from faceid_core.stages.planning import plan_works
from faceid_core.stages.work import Done, Source, Subject, Work, pipeline_stage
from faceid_core.store import IdentityErased, StageCache
from faceid_core.store.keys import sha256_hex
from faceid_core.store.layout import identity_of_scope

log = logging.getLogger(__name__)


def execute_stage(run: Run, stage: str, works: Sequence[Work], executor: Executor) -> list[Done]:
    """Run misses of one stage; each work gets exactly one outcome, whatever happens.

    A damaged input is made again, and the work that needs it runs once more. An executor that overlaps stages draws
    floor and ceiling while people are learned, on workers that nothing else waits for, and scores what is drawn while
    others are drawn; all that has its outcome here too.

    Args:
        run: An open run.
        stage: One of STAGES.
        works: Misses of it.
        executor: Where they run.
    """
    return _StageExecution(run, stage, executor).execute(works)


class _StageExecution:
    """One call of `execute_stage`: what is computed beside the stage's own works, and the outcomes of both."""

    def __init__(self, run: Run, stage: str, executor: Executor):
        self._run, self._stage, self._executor = run, stage, executor
        # Pictures of floor and ceiling are for workers that have nothing left to learn.
        self._words = lookup_floor_and_ceiling(run) if executor.overlaps and stage == "personalize" else []
        self._word_subjects = {work.subject for work in self._words}
        self._scores: list[Work] = []
        self._settled: list[Done] = []
        self._damaged: list[Done] = []

    def execute(self, works: Sequence[Work]) -> list[Done]:
        """See `execute_stage`."""
        run, stage = self._run, self._stage
        message = "the executor gave no answer"
        try:
            if stage == "detect":
                works, refused = _put_photos(run, works)
                for done in refused:
                    self._on_done(done)
            self._executor.execute(works, self._on_progress, self._on_done, self._stop, beside=self._words)
            early = sum(done.status == "done" and done.work.subject in self._word_subjects for done in self._settled)
            if early:
                run.reporter.note(f"generate: {early} results of floor and ceiling were drawn meanwhile")
            for done in self._damaged:
                own_stage = pipeline_stage(done.work.call.stage)
                mended = _Repair(run, self._executor).consumer(own_stage, done)
                self._settled.append(run.settle(own_stage, mended))
        except Exception as broken:
            message = f"{type(broken).__name__}: {run.without_photos(str(broken))}"
            if run.cancelled.is_set():  # its workers are being closed, or were stopped with it
                log.info("stage %s was stopped: %s", stage, message)
            else:
                where = "".join(traceback.format_tb(broken.__traceback__))
                log.error("stage %s broke: %s\n%s", stage, message, where)
        finally:
            run.usage = self._executor.usage()
        return (
            self._settled
            + run.fail_unsettled(stage, works, message)
            + run.fail_unsettled("score", self._scores, message)
        )

    def _on_progress(self, subject: str, done: int, total: int | None) -> None:
        # A worker that waits for another's name prior has nothing to tell but that it is there.
        waits = subject == KNOWN_NAMES and (total or 0) <= 1
        if subject not in self._word_subjects and not waits:
            self._run.reporter.progressed(subject, done, total)

    def _on_done(self, done: Done) -> Sequence[Work]:
        if done.status == "not_reached" and done.work.subject in self._word_subjects:
            return ()  # no further identity is learned; learned ones are still drawn, and these with them
        if done.status == "damaged":
            self._damaged.append(done)
            return ()
        done = self._run.settle(pipeline_stage(done.work.call.stage), done)
        self._settled.append(done)
        # Not while people are learned: what is scored then would be waited for before anyone is drawn.
        early = self._executor.overlaps and self._stage == "generate"
        following = _scores_of(self._run, done) if early else []
        self._scores.extend(following)
        return following

    def _stop(self) -> bool:
        return self._run.cancelled.is_set() or (self._stage in LEARNING_STAGES and self._run.past_finish_by())


def _scores_of(run: Run, done: Done) -> list[Work]:
    """What can be scored as soon as a subject is drawn; scores that need floor pictures still to come are left out.

    Nothing is looked up: what was drawn just now was hardly ever scored before, and scoring twice harms nothing.
    """
    if done.status != "done" or done.work.result != "generate":
        return []
    subject = run.subjects[done.work.subject]
    forced = run.plan.forces("score", subject)
    return [replace(work, replace=forced) for work in plan_works(run.plan, "score", subject)]


def _put_photos(run: Run, works: Sequence[Work]) -> tuple[list[Work], list[Done]]:
    """Copy the photos that detection is about to read into the store.

    Returns:
        The works whose photo is there, and the outcomes of the others.
    """
    with ThreadPoolExecutor(STORE_THREADS) as threads:
        outcomes = [*threads.map(lambda work: _put_photo_of(run, work), works)]
    ready = [work for work, outcome in zip(works, outcomes, strict=True) if outcome is None]
    return ready, [outcome for outcome in outcomes if outcome is not None]


def _put_photo_of(run: Run, work: Work) -> Done | None:
    """Copy the photo of one piece of work into the store; its outcome where that cannot be."""
    try:
        put_photo(run, run.subjects[work.subject])
    except PhotoRejected as rejection:
        why, figures = (rejection.reason, rejection.sentence), (rejection.value, rejection.threshold)
        return Done(work, "rejected", *why, value=figures[0], threshold=figures[1])
    except IdentityErased as error:
        return Done(work, "refused", "erased", str(error))
    except StoreError as error:
        return Done(work, "failed", type(error).__name__, str(error))
    return None


def put_photo(run: Run, subject: Subject) -> None:
    """Copy one subject's photo to where workers read it; a damaged copy is written again.

    Raises:
        PhotoRejected: the photo vanished or changed since it was digested, or its format is not read here.
        IdentityErased: the person was erased meanwhile.
        StoreError: the store fails, or the place that the photo comes from.
    """
    if subject.kind == "person":
        data = run.photos.read(run.identities[subject.name])
        # Checked here, not by the stage, whose answer would be kept beyond the day on which the plugin is installed.
        photos.check_readable(data)
    else:
        from faceid_core.miniature.samples import named_people  # the renderer: only a miniature run needs it

        data = next(
            png for person, png in named_people(run.config.score.named_people) if person == subject.text
        )
    if sha256_hex(data) != subject.photo_digest:
        raise PhotoRejected("photo_changed", "The photo changed while the run was starting. Run it again.")
    cache = StageCache(run.store, subject.scope)
    cache.put_blob(data)
    if subject.subject_mask_digest:
        mask = run.photos.read(mask_of(run.identities[subject.name]))
        if sha256_hex(mask) != subject.subject_mask_digest:
            raise PhotoRejected("photo_changed", "The mask changed while the run was starting. Run it again.")
        cache.put_blob(mask)


class _Repair:
    """Makes damaged inputs again, as deep as the damage goes; one repair at a time, which all consumers share."""

    def __init__(self, run: Run, executor: Executor):
        self._run, self._executor = run, executor

    def consumer(self, stage: str, done: Done) -> Done:
        """Run a work whose input was damaged until its inputs are whole, or until one cannot be made again.

        Args:
            stage: Of STAGES ('score' for every metric).
            done: Its outcome 'damaged', which says where the input came from.

        Returns:
            The outcome of the last try.
        """
        with self._run.repairing:
            return self._until_whole(stage, done)

    def _until_whole(self, stage: str, done: Done) -> Done:
        work = done.work
        for _ in STAGES:
            if done.status != "damaged" or done.damaged is None:
                return done
            failure = self._make_again(self._run.subjects[work.subject], done.damaged)
            again = None if failure else self._planned(stage, work)
            if again is None:
                return replace(done, work=work, status="failed", message=failure or done.message)
            work = again
            done = self._execute(work)
        return replace(done, work=work, status="failed")

    def _execute(self, work: Work) -> Done:
        found: list[Done] = []
        self._executor.execute(
            [work], self._run.reporter.progressed, found.append, self._run.cancelled.is_set
        )
        return found[0]

    def _make_again(self, consumer: Subject, source: Source) -> str | None:
        """Make one output whole again; the reason why not, or None."""
        run = self._run
        person = identity_of_scope(source.scope)
        sharing = run.subjects.values() if person is None else filter(None, [run.subjects.get(person)])
        owner = next((s for s in sharing if s.scope == source.scope and _made(s, source)), consumer)
        cache = StageCache(run.store, source.scope)
        try:
            cache.read_blob(source.digest, stage=source.stage, stage_key=source.stage_key)
            return None  # another consumer's repair was here first
        except DamagedInput as damage:
            run.reporter.note(f"{owner.name}: {damage}")
        try:
            if source.stage == "photo":
                put_photo(run, owner)
                return None
            manifest = cache.read_manifest(source.stage, source.stage_key)
            if manifest is not None:
                cache.quarantine(manifest, "a consumer found an output damaged")
            stage = pipeline_stage(source.stage)
            producer = next(
                (w for w in plan_works(run.plan, stage, owner) if w.call.key == source.stage_key), None
            )
            if producer is None:
                return f"{source.stage} was planned otherwise meanwhile; run again"
            settled = run.settle(stage, self._until_whole(stage, self._execute(producer)))
            return None if settled.status == "done" else settled.message
        except FaceidError as error:
            return str(error)

    def _planned(self, stage: str, work: Work) -> Work | None:
        """The consumer's work planned again, because its input digests may have changed."""
        works = plan_works(self._run.plan, stage, self._run.subjects[work.subject])
        again = next((w for w in works if w.result == work.result), None)
        return again and replace(again, replace=work.replace)


def _made(subject: Subject, source: Source) -> bool:
    if source.stage == "photo":
        return subject.photo_digest == source.digest
    return any(m.stage_key == source.stage_key for m in subject.manifests.values())
