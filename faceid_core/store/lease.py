"""Leases keep apart two runs on one store, and two workers on one piece of work; the lease of a dead process is taken.

A lease saves double work. Correctness never rests on it: two holders would still write the same results.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigurationError, Conflict, ObjectMissing, StoreError
from .lease_record import (
    TTL_SECONDS,
    LeaseRecord,
    LeaseState,
    LeaseWatch,
    Look,
    own_record,
    process_token,
    read_record,
)
from .objects import ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

NAME = "leases/run.json"
_OF_RUNS = "leases/"
_BESIDE = "leases/beside-"
_QUEUE = "leases/waits-"
_RENEWALS_PER_TTL = 4
_LONGEST_POLL_SECONDS = 5.0
_AFTER_A_LOST_RACE_SECONDS = 0.05
_ATTEMPTS_AT_RELEASE = 2  # after a renewal that was answered too late the etag has to be asked for


class StoreBusy(StoreError, ConfigurationError):
    """Another run holds the store, and this one is not to wait, or no longer: nothing was changed (exit status 3)."""


@dataclass(frozen=True)
class Wait:
    """A run that waits for another one.

    Attributes:
        run_id, host: of the run that holds the store.
        seconds: how long it has waited.
        in_doubt: whether the other run may be dead; if it does not renew its lease within `ttl` seconds, it is.
        ttl: of the other run's lease.
    """

    run_id: str
    host: str
    seconds: float
    in_doubt: bool
    ttl: float


class RunLease:
    """The right to run on a store, or to do one piece of its work, renewed by a thread until `release`."""

    def __init__(self, store: ObjectStore, run_id: str, ttl: float, name: str = NAME):
        self.run_id, self.ttl, self.name = run_id, ttl, name
        self.lost = False
        self._store, self._holder, self._etag = store, uuid.uuid4().hex, ""
        self._written = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease-{run_id}", daemon=True)

    @classmethod
    def acquire(
        cls,
        store: ObjectStore,
        run_id: str,
        *,
        ttl: float = TTL_SECONDS,
        on_busy: Literal["wait", "refuse", "share"] = "wait",
        waiting: Callable[[Wait], None] | None = None,
    ) -> RunLease:
        """Take the store's lease.

        A holder that may be dead is watched for as long as its lease's ttl, by our own clock; then it is dead, or it
        has renewed its lease.

        Args:
            store: any store.
            run_id: who is asking; shown to others.
            ttl: seconds without renewal after which a holder counts as dead.
            on_busy: what to do while another run lives; "share" takes a lease beside it.
            waiting: told at each look while this run waits; what it raises ends the wait.

        Returns:
            The lease; release it, or use it in a `with` statement.

        Raises:
            StoreBusy: if another run holds it and we do not wait.
        """
        lease, watch, began = cls(store, run_id, ttl), LeaseWatch(), time.monotonic()
        queue: RunLease | None = None
        try:
            while True:
                seen = lease._look(watch)
                if seen.state is LeaseState.FREE:
                    if lease._take(seen.etag):
                        lease._thread.start()
                        return lease
                    time.sleep(_AFTER_A_LOST_RACE_SECONDS)
                    continue
                other = seen.holder
                if on_busy == "share":
                    return cls._beside(store, run_id, ttl)
                if on_busy == "refuse" and seen.state is LeaseState.HELD:
                    raise StoreBusy(
                        f"{other.who} is using {store.url}; wait for it to end, or let this run wait (on_busy: wait)"
                    )
                if on_busy == "wait" and queue is None:
                    queue = cls._enter_queue(store, run_id, ttl)
                log.info("run %s waits for run %s on the same store", run_id, other.run_id)
                if waiting is not None:
                    waiting(
                        Wait(other.run_id, other.host, time.monotonic() - began, seen.in_doubt, other.ttl)
                    )
                time.sleep(_poll_seconds(ttl, other.ttl))
        finally:
            if queue is not None:
                queue.drop()

    @classmethod
    def _beside(cls, store: ObjectStore, run_id: str, ttl: float) -> RunLease:
        beside = cls(store, run_id, ttl, f"{_BESIDE}{run_id}.json")
        beside._take(beside._read()[1])
        beside._thread.start()
        return beside

    @classmethod
    def _enter_queue(cls, store: ObjectStore, run_id: str, ttl: float) -> RunLease | None:
        """Leave a lease that says for `faceid status` that this run waits; without it the run waits all the same."""
        queue = cls(store, run_id, ttl, f"{_QUEUE}{run_id}.json")
        try:
            if not queue._take(queue._read()[1]):
                return None
        except StoreError as error:
            log.warning("run %s waits, and the store does not show it: %s", run_id, error)
            return None
        queue._thread.start()
        return queue

    @classmethod
    def try_take(
        cls,
        store: ObjectStore,
        run_id: str,
        name: str,
        watch: LeaseWatch | None = None,
        *,
        ttl: float = TTL_SECONDS,
    ) -> RunLease | None:
        """Take the lease of one piece of work, or None while another worker who is alive has it.

        One that is overdue by the clocks is taken at once: where they differ, work is done twice. A process that asks
        for the same work twice under one run's id takes its own lease over.

        Args:
            name: the lease's object.
            watch: what this worker has seen of leases before.
        """
        lease = cls(store, run_id, ttl, name)
        seen = lease._look(watch or LeaseWatch())
        free = seen.state in (LeaseState.FREE, LeaseState.OVERDUE)
        # One that this process could neither use nor drop, because the store failed, would hold it up for a ttl.
        if not (free or lease._is_of_this_process(seen.holder)) or not lease._take(seen.etag):
            return None
        lease._thread.start()
        return lease

    @classmethod
    def look(cls, store: ObjectStore, name: str, watch: LeaseWatch | None = None) -> Look:
        """Who holds a lease, and whether that can be believed.

        Args:
            name: the lease's object.
            watch: what this observer has seen of leases before.
        """
        return cls(store, "", 0.0, name)._look(watch or LeaseWatch())

    def drop(self) -> None:
        """Release and leave nothing behind; cheap enough for thousands of leases."""
        if self._stop.is_set():
            return
        self._end()
        # A process that was stopped for so long may find another one's lease in its place.
        if time.monotonic() - self._written > self.ttl:
            self._find_out_who_renewed()
        if not self.lost:
            try:
                self._store.delete(self.name)
            except StoreError as error:
                log.warning("a lease of run %s stays until it runs out: %s", self.run_id, error)

    def _end(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def release(self) -> None:
        """Let the next run in; one taken over meanwhile is left to its new holder. Safe to call twice."""
        if self.name != NAME:
            self.drop()
            return
        if self._stop.is_set():
            return
        self._end()
        if self.lost:
            return
        for _ in range(_ATTEMPTS_AT_RELEASE):
            try:
                self._store.replace_if_match(self.name, self._record(released=True), self._etag)
                return
            except Conflict:
                self._find_out_who_renewed()
                if self.lost:
                    return
            except StoreError as error:
                told = "run %s could not release its lease, which runs out by itself: %s"
                log.warning(told, self.run_id, error)
                return

    def __enter__(self) -> RunLease:
        return self

    def __exit__(self, *_) -> None:
        self.release()

    def _look(self, watch: LeaseWatch) -> Look:
        asked = time.monotonic()
        record, etag = self._read()
        return watch.judge(self.name, record, etag, asked)

    def _read(self) -> tuple[LeaseRecord | None, str | None]:
        try:
            data, etag = self._store.get_with_etag(self.name)
        except ObjectMissing:
            return None, None
        return read_record(data, f"{self.name} in {self._store.url}"), etag

    def _take(self, etag: str | None) -> bool:
        try:
            self._write(etag)
            return True
        except Conflict:
            return False

    def _write(self, etag: str | None) -> None:
        began = time.monotonic()
        self._etag = self._store.replace_if_match(self.name, self._record(), etag)
        self._written = began

    def _is_of_this_process(self, record: LeaseRecord) -> bool:
        return record.run_id == self.run_id and record.process_token == process_token()

    def _record(self, *, released: bool = False) -> bytes:
        return own_record(self.run_id, self._holder, self.ttl, released=released).to_bytes()

    def _renew(self) -> None:
        while not self.lost and not self._stop.wait(self.ttl / _RENEWALS_PER_TTL):
            self._renew_once()

    def _renew_once(self) -> None:
        try:
            self._write(self._etag)
        except Conflict:
            self._find_out_who_renewed()
        except StoreError as error:
            log.warning("run %s could not renew its lease, will try again: %s", self.run_id, error)

    def _find_out_who_renewed(self) -> None:
        """A renewal whose answer came too late was ours; after anybody else's the lease is lost."""
        try:
            record, etag = self._read()
        except StoreError as error:
            log.warning("run %s could not look at its lease, will try again: %s", self.run_id, error)
            return
        if record is not None and record.holder == self._holder:
            self._etag = etag
            return
        self.lost = True
        log.warning(
            "run %s lost its lease to another run; results stay right, work may be done twice", self.run_id
        )


def running_runs(
    store: ObjectStore,
    watch: LeaseWatch | None = None,
    *,
    wait: bool = True,
    report: Callable[[str], None] | None = None,
) -> list[str]:
    """The runs that hold a lease of the store and are alive.

    Args:
        store: any store.
        watch: what this observer has seen of leases before.
        wait: watch leases of runs that may be dead until that is known, at most for their ttl; else such runs count
            as alive.
        report: told about a wait, in words.
    """
    watch = watch or LeaseWatch()
    names = [info.name for info in list(store.list(_OF_RUNS)) if not info.name.startswith(_QUEUE)]
    found: list[str] = []
    told = False
    while names:
        in_doubt: list[tuple[str, LeaseRecord]] = []
        for name in names:
            seen = RunLease.look(store, name, watch)
            if seen.state is LeaseState.HELD:
                found.append(seen.holder.run_id)
            elif seen.in_doubt:
                in_doubt.append((name, seen.holder))
        if not wait:
            return found + [record.run_id for _, record in in_doubt]
        if in_doubt:
            longest = max(record.ttl for _, record in in_doubt)
            if not told:
                told = True
                who = ", ".join(record.who for _, record in in_doubt)
                text = f"{who}: dead or alive? watching its lease for up to {longest:.0f} s"
                log.info("%s", text)
                if report:
                    report(text)
            time.sleep(_poll_seconds(min(record.ttl for _, record in in_doubt)))
        names = [name for name, _ in in_doubt]
    return found


def waiting_runs(store: ObjectStore) -> list[LeaseRecord]:
    """The runs that wait for the store, as far as their records tell."""
    looks = [RunLease.look(store, info.name) for info in list(store.list(_QUEUE))]
    return [seen.holder for seen in looks if seen.state in (LeaseState.HELD, LeaseState.AHEAD)]


def abandoned_leases(store: ObjectStore, watch: LeaseWatch | None = None) -> list[ObjectInfo]:
    """Leases of single runs that are not held and that no run will take over: their names hold the run's id."""
    watch, found = watch or LeaseWatch(), []
    for info in list(store.list(_OF_RUNS)):
        if not info.name.startswith((_BESIDE, _QUEUE)):
            continue
        if RunLease.look(store, info.name, watch).state in (LeaseState.FREE, LeaseState.OVERDUE):
            found.append(info)
    return found


def _poll_seconds(*ttls: float) -> float:
    return min(_LONGEST_POLL_SECONDS, *(ttl / _RENEWALS_PER_TTL for ttl in ttls))
