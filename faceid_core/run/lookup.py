"""Lookup: adopt what the store already holds of a stage; the rest is what a run has to compute.

A dry run is the same lookup for every stage, with nothing executed between them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

from faceid_core.errors import DamagedInput, StoreError
from faceid_core.outcomes import Outcome, OutcomeReport
from faceid_core.run.state import LEARNING_STAGES, STORE_THREADS, Run
from faceid_core.stages import STAGES
from faceid_core.stages.planning import plan_works
from faceid_core.stages.work import InputMissing, Subject, Work
from faceid_core.store import Manifest, StageCache

log = logging.getLogger(__name__)


class LookupObserver(Protocol):
    """Records what a lookup finds. Several threads call it at once."""

    def hit(self, subject: Subject, work: Work, manifest: Manifest) -> None:
        """A result is in the store, and the run adopted it."""
        ...

    def miss(self, subject: Subject, work: Work) -> None:
        """A result has to be computed; `work.replace` says that the run is forced to."""
        ...


@dataclass
class StageLookup:
    """What a dry run found of one stage.

    Attributes:
        stage: One of STAGES.
        misses: What a run would compute, as far as the results of earlier stages are there.
        waiting: Subjects that lack a result of an earlier stage, on which their keys of this stage depend.
    """

    stage: str
    misses: list[Work]
    waiting: list[Subject]


def lookup_stage(
    run: Run, stage: str, *, observer: LookupObserver | None = None, skip: Collection[str] = ()
) -> list[Work]:
    """Look one stage up for every active subject; adopt hits and return the misses.

    Reads manifests only. A cached rejection closes the identity's outcome report as a fresh one does. A subject without
    the result of an earlier stage fails there, and the others go on.

    Args:
        run: An open run.
        stage: One of STAGES.
        observer: Called with each hit and miss.
        skip: Names of subjects that are left out.

    Raises:
        StoreError: no subject's results can be read; none was closed, and the lookup may be tried again.
    """
    prefetched = run.prefetched.pop(stage, None)
    misses = prefetched.result() if prefetched is not None else _lookup(run, stage, observer, skip)
    early = run.early_scores() if stage == "score" else 0
    if early:
        run.reporter.note(f"score: {early} results were computed while pictures were drawn")
    return misses


def lookup_floor_and_ceiling(run: Run) -> list[Work]:
    """Look the images of floor and ceiling up, which need no person's tokens; adopt hits and return the misses.

    Only the first call of a run looks; later ones find nothing to do.
    """
    if not run.take_floor_and_ceiling():
        return []
    subjects = [subject for subject in run.active_subjects() if subject.text]
    found = [_lookup_subject(run, "generate", subject, None) for subject in subjects]
    # What cannot be read now is looked up again with all other pictures.
    return [work for each in found if not each.error for work in each.misses]


def prefetch_lookup(run: Run, stage: str, on_misses: Callable[[], object]) -> None:
    """Look a stage up in the background; `lookup_stage` then takes the answer found here.

    Args:
        run: An open run.
        stage: The first one, whose inputs are there when the run is opened.
        on_misses: Called in the background if there is something to compute.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch-lookup")
    run.prefetched[stage] = answer = thread.submit(_lookup, run, stage, None, ())
    thread.submit(_call_if_missed, answer, on_misses)
    thread.shutdown(wait=False)


def _call_if_missed(answer: Future, on_misses: Callable[[], object]) -> None:
    """What goes wrong here shows again when the run asks for the result itself."""
    try:
        if answer.exception() is None and answer.result():
            on_misses()
    except Exception as error:
        log.info("nothing was prefetched: %s", error)


def dry_run(run: Run, observer: LookupObserver | None = None) -> Iterator[StageLookup]:
    """Look every stage up as the run would, and compute nothing.

    Args:
        run: Opened with `dry_run=True`, so that the store stays as it is.
        observer: Called with each hit and miss.

    Yields:
        Each stage in order; a caller that has seen enough may stop.
    """
    waiting: set[str] = set()
    for stage in STAGES:
        behind = [subject for subject in run.active_subjects() if subject.name in waiting]
        misses = lookup_stage(run, stage, observer=observer, skip=waiting)
        yield StageLookup(stage, misses, behind)
        waiting |= {work.subject for work in misses}


@dataclass
class _SubjectLookup:
    """What a lookup found of one subject's results of a stage."""

    hits: int = 0
    misses: list[Work] = field(default_factory=list)
    error: StoreError | None = None


def _lookup(run: Run, stage: str, observer: LookupObserver | None, skip: Collection[str]) -> list[Work]:
    subjects = [subject for subject in run.active_subjects() if subject.name not in skip]
    if stage == "generate":  # floor first, so that identities can be scored as soon as they are drawn
        subjects.sort(key=lambda subject: subject.kind == "person")
    with ThreadPoolExecutor(STORE_THREADS) as threads:
        found = list(threads.map(lambda subject: _lookup_subject(run, stage, subject, observer), subjects))
    _fail_unreadable(run, stage, subjects, found)
    misses = [work for each in found for work in each.misses]
    if run.evaluation_only and stage in LEARNING_STAGES:
        misses = _close_without_tokens(stage, misses, run.outcome_reports)
    run.reporter.looked_up(stage, hits=sum(each.hits for each in found), misses=len(misses))
    return misses


def _lookup_subject(
    run: Run, stage: str, subject: Subject, observer: LookupObserver | None
) -> _SubjectLookup:
    found = _SubjectLookup()
    cache, forced = StageCache(run.store, subject.scope), run.plan.forces(stage, subject)
    try:
        works = plan_works(run.plan, stage, subject)
    except InputMissing as missing:
        run.fail(subject, missing.stage, "no_outcome", str(missing))
        return found
    for work in works:
        if run.is_settled(subject.name, work.result):
            continue  # it ran beside an earlier stage
        try:
            manifest = None if forced else _adopted(run, cache, subject, work)
        except StoreError as error:
            found.error, found.misses = error, []
            return found
        if manifest is not None:
            found.hits += 1
            if observer is not None:
                observer.hit(subject, work, manifest)
            continue
        work = replace(work, replace=forced)
        if observer is not None:
            observer.miss(subject, work)
        found.misses.append(work)
    return found


def _adopted(run: Run, cache: StageCache, subject: Subject, work: Work) -> Manifest | None:
    """Adopt the result of a work if it is in the store and can be read."""
    # Without the lease another run may be at this store: a damaged result is then a miss, and stays where it is.
    manifest = cache.lookup(work.call, read_only=run.lease is None)
    if manifest is None:
        return None
    try:
        run.adopt(subject, work.result, manifest)
        return manifest
    except DamagedInput as damage:
        if run.lease is not None:
            cache.quarantine(manifest, str(damage))
        return None


def _fail_unreadable(
    run: Run, stage: str, subjects: Sequence[Subject], found: Sequence[_SubjectLookup]
) -> None:
    """Fail the subjects whose results cannot be read; if that is true of all of them, the store is at fault."""
    unread = [(subject, each.error) for subject, each in zip(subjects, found, strict=True) if each.error]
    if len(unread) > 1 and not any(each.hits or each.misses for each in found if not each.error):
        raise unread[0][1]
    for subject, error in unread:
        run.fail(subject, stage, type(error).__name__, str(error))


def _close_without_tokens(stage: str, misses: Sequence[Work], outcome_reports: Mapping[str, OutcomeReport]) -> list[Work]:
    """In an evaluation, close the identities that would have to be personalized first.

    Args:
        stage: One of LEARNING_STAGES.
        misses: What the store does not hold of it.
        outcome_reports: By identity key; floor and ceiling have none.

    Returns:
        What is computed all the same: the results that floor and ceiling lack.
    """
    for work in misses:
        if work.subject in outcome_reports:
            message = (
                f"the store holds no tokens that this configuration learned ({stage} is missing); run the person "
                "with it first, or choose the settings of faces, base_model and personalize that were run"
            )
            outcome_reports[work.subject].close(
                Outcome.NOT_REACHED, stage=stage, reason="no_tokens", message=message
            )
    return [work for work in misses if work.subject not in outcome_reports]
