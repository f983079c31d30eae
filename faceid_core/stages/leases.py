"""Leases of single works: of two runs on one store, only one computes a piece of work of the long stages."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

from faceid_core.errors import StoreError
from faceid_core.stages.work import MADE_ELSEWHERE, Done, Work
from faceid_core.store import IdentityErased, ObjectStore, RunLease, StageCache
from faceid_core.store.cache import refuse_erased
from faceid_core.store.layout import identity_of_scope, stage_lease
from faceid_core.store.lease_record import LeaseState, LeaseWatch

log = logging.getLogger(__name__)

# A work of these takes minutes of an accelerator; one of the other stages takes less time than a lease.
SHARED_STAGES = ("prior", "personalize", "generate")
POLL_SECONDS = 2.0


class WorkLeases:
    """The leases that one worker holds. A lease only saves double work: a store that fails here stops nothing."""

    def __init__(self, store: ObjectStore, run_id: str):
        self._store, self._run_id = store, run_id
        self._held: dict[str, RunLease] = {}
        # One watch for all works, so that the leases of a dead worker expire together and not one after the other.
        self._watch = LeaseWatch()

    def begin(self, works: Sequence[Work]) -> tuple[list[Work], list[Work], list[Done]]:
        """Split works into those to compute now, those that another worker computes, and those that are done."""
        mine, elsewhere, done = [], [], []
        for work in works:
            if work.call.stage not in SHARED_STAGES:
                mine.append(work)
                continue
            try:
                taken = self._take(work)
            except IdentityErased as error:
                done.append(Done(work, "refused", reason="erased", message=str(error)))
                continue
            if not taken:
                elsewhere.append(work)
            elif self._is_made(work):  # since the lookup, which may be hours ago
                self.end(work)
                done.append(Done(work, "done", reason=MADE_ELSEWHERE))
            else:
                mine.append(work)
        return mine, elsewhere, done

    def end(self, work: Work) -> None:
        """Release a work's lease, whether the work is done or not; safe to call twice."""
        lease = self._held.pop(self._name(work), None)
        if lease is not None:
            lease.drop()

    def wait_for_one(self, works: Sequence[Work]) -> Iterator[None]:
        """Yield every `POLL_SECONDS` until one of the works has a result, or its worker has ended or died."""
        while True:
            for work in works:
                if self._is_made(work) or self._is_abandoned(work):
                    return
            yield
            time.sleep(POLL_SECONDS)

    def _take(self, work: Work) -> bool:
        """Take a work's lease; False if another worker holds it. Raises IdentityErased."""
        person = identity_of_scope(work.scope)
        try:
            refuse_erased(self._store, person, "its work")
            lease = RunLease.try_take(self._store, self._run_id, self._name(work), self._watch)
            if lease is None:
                return False
            self._held[self._name(work)] = lease
            refuse_erased(self._store, person, "its work", written=[self._name(work)])
        except IdentityErased:
            self.end(work)  # a lease is one of the person's objects too
            raise
        except StoreError as error:
            log.warning("%s: no lease on stage %s: %s", work.subject, work.call.stage, error)
        return True

    def _is_made(self, work: Work) -> bool:
        if work.replace:
            return False
        try:
            return (
                StageCache(self._store, work.scope).read_manifest(
                    work.call.stage, work.call.key, read_only=True
                )
                is not None
            )
        except StoreError as error:
            log.warning("%s: stage %s was not looked up: %s", work.subject, work.call.stage, error)
            return False

    def _is_abandoned(self, work: Work) -> bool:
        """Whether a work's lease is no longer renewed, so that it can be taken."""
        try:
            state = RunLease.look(self._store, self._name(work), self._watch).state
        except StoreError as error:
            # Do not wait forever on a store that is gone: trying the work brings its error.
            log.warning("%s: the lease of stage %s was not read: %s", work.subject, work.call.stage, error)
            return True
        return state in (LeaseState.FREE, LeaseState.OVERDUE)

    def _name(self, work: Work) -> str:
        return stage_lease(work.scope, work.call.stage, work.call.key)
