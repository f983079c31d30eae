"""Lookups: what the store holds of a stage already is adopted; the rest is what a run has to compute."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from faceid_core.errors import DamagedInput, StoreError
from faceid_core.run.learned import close_unlearned
from faceid_core.stages.planning import plan_works
from faceid_core.stages.work import InputMissing, Subject, Work
from faceid_core.store import StageCache

if TYPE_CHECKING:
    from faceid_core.run.state import Run

LOOKUP_THREADS = 16


@dataclass
class _Look:
    """What a lookup found of one subject's results of a stage."""

    hits: int = 0
    misses: list[Work] = field(default_factory=list)
    error: StoreError | None = None


def look_up(run: Run, stage: str) -> list[Work]:
    """Adopt what there is of a stage of everybody alive, and return the misses.

    Raises:
        StoreError: nobody's results can be read; nobody was closed, and it may be tried again.
    """
    subjects = run.alive()
    if stage == "generate":  # floor first, so that people can be scored as soon as they are drawn
        subjects.sort(key=lambda subject: subject.kind == "person")
    with ThreadPoolExecutor(LOOKUP_THREADS) as threads:
        looks = list(threads.map(lambda subject: _look_at(run, stage, subject), subjects))
    _close_unread(run, stage, subjects, looks)
    misses = [work for look in looks for work in look.misses]
    if run.learned_only:
        misses = close_unlearned(stage, misses, run.accounts)
    run.reporter.looked_up(stage, hits=sum(look.hits for look in looks), misses=len(misses))
    return misses


def _close_unread(run: Run, stage: str, subjects: Sequence[Subject], looks: Sequence[_Look]) -> None:
    """Close whoever's results cannot be read, which ends this person's night only; if nobody's can, it is the store."""
    unread = [(subject, look.error) for subject, look in zip(subjects, looks, strict=True) if look.error]
    if len(unread) > 1 and not any(look.hits or look.misses for look in looks if not look.error):
        raise unread[0][1]
    for subject, error in unread:
        run.fail(subject, stage, type(error).__name__, str(error))


def _look_at(run: Run, stage: str, subject: Subject) -> _Look:
    look = _Look()
    cache, forced = StageCache(run.store, subject.scope), run.plan.forces(stage, subject)
    try:
        works = plan_works(run.plan, stage, subject)
    except InputMissing as missing:
        run.fail(subject, missing.stage, "no_outcome", str(missing))
        return look
    for work in works:
        if run.answered(subject.name, work.result):
            continue  # it ran while pictures were drawn
        try:
            if not forced and _adopted(run, cache, subject, work):
                look.hits += 1
                continue
        except StoreError as error:
            look.error, look.misses = error, []
            return look
        look.misses.append(replace(work, replace=forced))
    return look


def _adopted(run: Run, cache: StageCache, subject: Subject, work: Work) -> bool:
    """Adopt the result of a work if it is in the store and can be read."""
    # Without the lease somebody else may be at this store: a damaged result is then a miss, and stays where it is.
    manifest = cache.look(work.call) if run.lease is None else cache.lookup(work.call)
    if manifest is None:
        return False
    try:
        run.adopt(subject, work.result, manifest)
        return True
    except DamagedInput as damage:
        if run.lease is not None:
            cache.quarantine(manifest, str(damage))
        return False
