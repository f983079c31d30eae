"""Repair: what a damaged input came from is set aside and made again, as deep as the damage goes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from faceid_core.errors import DamagedInput, FaceidError
from faceid_core.run.executor import Executor
from faceid_core.stages import STAGES
from faceid_core.stages.planning import plan_works
from faceid_core.stages.work import Done, Source, Subject, Work, pipeline_stage
from faceid_core.store import StageCache

if TYPE_CHECKING:
    from faceid_core.run.state import Run


class Repair:
    """Makes damaged inputs again, one repair at a time in a run, so that two consumers share one."""

    def __init__(self, run: Run, executor: Executor):
        self._run, self._executor = run, executor

    def consumer(self, stage: str, done: Done) -> Done:
        """Run a work whose input was damaged until its inputs are whole, or until one cannot be made again.

        Args:
            stage: The stage group of the work ('score' for every metric).
            done: Its outcome 'damaged', which says where the input came from.

        Returns:
            The outcome of the last try.
        """
        with self._run._repairs:
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
            done = self._run(work)
        return replace(done, work=work, status="failed")

    def _run(self, work: Work) -> Done:
        found: list[Done] = []
        self._executor.execute([work], self._run.reporter.progressed, found.append, self._run.cancelled.is_set)
        return found[0]

    def _make_again(self, consumer: Subject, source: Source) -> str | None:
        """Make one output whole again; the reason why not, or None."""
        run = self._run
        owner = next(
            (s for s in run.subjects.values() if s.scope == source.scope and _made(s, source)), consumer
        )
        cache = StageCache(run.store, source.scope)
        try:
            cache.read_blob(source.digest, stage=source.stage, stage_key=source.stage_key)
            return None  # another consumer's repair was here first
        except DamagedInput as damage:
            run.reporter.note(f"{owner.name}: {damage}")
        try:
            if source.stage == "photo":
                run.put_photo(owner)
                return None
            manifest = cache.by_key(source.stage, source.stage_key)
            if manifest is not None:
                cache.quarantine(manifest, "a consumer found an output damaged")
            stage = pipeline_stage(source.stage)
            producer = next(
                (w for w in plan_works(run.plan, stage, owner) if w.call.key == source.stage_key), None
            )
            if producer is None:
                return f"{source.stage} was planned otherwise meanwhile; run again"
            settled = run.settle(stage, self._until_whole(stage, self._run(producer)))
            return None if settled.status == "done" else settled.message
        except FaceidError as error:
            return str(error)

    def _planned(self, stage: str, work: Work) -> Work | None:
        """The consumer's work planned anew, because its input digests may have changed."""
        works = plan_works(self._run.plan, stage, self._run.subjects[work.subject])
        again = next((w for w in works if w.result == work.result), None)
        return again and replace(again, replace=work.replace)


def _made(subject: Subject, source: Source) -> bool:
    if source.stage == "photo":
        return subject.photo_digest == source.digest
    return any(m.stage_key == source.stage_key for m in subject.manifests.values())
