"""Leases: two nights on one store, and two workers on one piece of work; whoever died is taken over.

A lease saves double work. Correctness never rests on it: two holders would still write the same results.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from typing import Literal

from ..errors import ConfigurationError, Conflict, ObjectMissing, StoreError
from .keys import canonical_json
from .objects import ObjectStore

log = logging.getLogger(__name__)

NAME = "leases/run.json"
_OF_RUNS = "leases/"
_RENEWALS_PER_TTL = 4
_LONGEST_POLL_SECONDS = 5.0
_ATTEMPTS_AT_RELEASE = 2  # after a renewal that was answered too late the etag has to be asked for


class StoreBusy(StoreError, ConfigurationError):
    """Another run holds the store, and this one was told not to wait: nothing was changed (exit status 3)."""


class RunLease:
    """The right to run on a store, or to do one piece of its work, renewed by a thread until `release`."""

    def __init__(self, store: ObjectStore, run_id: str, ttl: float, name: str = NAME):
        self.run_id, self.ttl, self.name = run_id, ttl, name
        self.lost = False
        self._store, self._holder, self._etag = store, uuid.uuid4().hex, ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease-{run_id}", daemon=True)

    @classmethod
    def acquire(
        cls,
        store: ObjectStore,
        run_id: str,
        *,
        ttl: float = 60.0,
        on_busy: Literal["wait", "refuse", "share"] = "wait",
    ) -> RunLease:
        """Take the store's lease.

        Args:
            store: any store.
            run_id: who is asking; shown to others.
            ttl: seconds without renewal after which a holder counts as dead.
            on_busy: what to do while another run lives; "share" takes a lease beside it.

        Returns:
            The lease; release it, or use it in a `with` statement.

        Raises:
            StoreBusy: if another run holds it and we do not wait.
        """
        lease = cls(store, run_id, ttl)
        watched_since = time.monotonic()
        watched_etag = None
        while True:
            record, etag = lease._read()
            now = time.monotonic()
            if etag != watched_etag:
                watched_etag, watched_since = etag, now
            # The holder's clock may be wrong; no renewal for a whole ttl of *our* clock is proof as well.
            stale = _is_free(record) or now - watched_since > float(record["ttl"])
            if stale and lease._take(etag):
                lease._thread.start()
                return lease
            if on_busy == "share":
                beside = cls(store, run_id, ttl, f"{_OF_RUNS}beside-{run_id}.json")
                beside._take(beside._read()[1])
                beside._thread.start()
                return beside
            if on_busy == "refuse":
                other = f"run {record.get('run_id', 'unknown')} on {record.get('host', 'another machine')}"
                raise StoreBusy(
                    f"{other} is using {store.url}; wait for it to end, or let this run wait (on_busy: wait)"
                )
            log.info("run %s waits for run %s on the same store", run_id, record.get("run_id"))
            time.sleep(min(_LONGEST_POLL_SECONDS, ttl / _RENEWALS_PER_TTL))

    @classmethod
    def try_take(cls, store: ObjectStore, run_id: str, name: str, *, ttl: float = 60.0) -> RunLease | None:
        """Take the lease of one piece of work, or None while another worker who is alive has it.

        A process that asks for the same work twice under one run's id takes its own lease over.

        Args:
            name: the lease's object.
        """
        lease = cls(store, run_id, ttl, name)
        record, etag = lease._read()
        # One that this process could neither use nor drop, because the store failed, would hold it up for a ttl.
        if not (_is_free(record) or lease._is_of_this_process(record)) or not lease._take(etag):
            return None
        lease._thread.start()
        return lease

    @classmethod
    def look(cls, store: ObjectStore, name: str) -> tuple[dict | None, str]:
        """The record of who holds a lease, and its etag; None if nobody who is alive does."""
        record, etag = cls(store, "", 0.0, name)._read()
        return (None, "") if _is_free(record) else (record, str(etag))

    def drop(self) -> None:
        """Release and leave nothing behind, as befits a lease that is one of thousands."""
        if self._stop.is_set():
            return
        self._end()
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

    def _read(self) -> tuple[dict, str | None]:
        try:
            data, etag = self._store.get_with_etag(self.name)
        except ObjectMissing:
            return {"released": True}, None
        return _parse(data), etag

    def _take(self, etag: str | None) -> bool:
        try:
            self._etag = self._store.replace_if_match(self.name, self._record(), etag)
            return True
        except Conflict:
            return False

    def _is_of_this_process(self, record: dict) -> bool:
        here = {"run_id": self.run_id, "host": socket.gethostname(), "process": os.getpid()}
        return all(record.get(name) == value for name, value in here.items())

    def _record(self, *, released: bool = False) -> bytes:
        return canonical_json(
            {
                "run_id": self.run_id,
                "holder": self._holder,
                "host": socket.gethostname(),
                "process": os.getpid(),
                "renewed": time.time(),
                "ttl": float(self.ttl),
                "released": released,
            }
        )

    def _renew(self) -> None:
        while not self.lost and not self._stop.wait(self.ttl / _RENEWALS_PER_TTL):
            self._renew_once()

    def _renew_once(self) -> None:
        try:
            self._etag = self._store.replace_if_match(self.name, self._record(), self._etag)
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
        if record.get("holder") == self._holder:
            self._etag = etag
            return
        self.lost = True
        log.warning(
            "run %s lost its lease to another run; results stay right, work may be done twice", self.run_id
        )


def running_runs(store: ObjectStore) -> list[str]:
    """The runs that hold a lease of the store and are alive, as far as their records tell."""
    found = []
    for info in list(store.list(_OF_RUNS)):
        try:
            record = _parse(store.get(info.name))
        except ObjectMissing:
            continue
        if not _is_free(record):
            found.append(str(record.get("run_id", "unknown")))
    return found


def _parse(data: bytes) -> dict:
    try:
        record = json.loads(data)
        float(record["renewed"]), float(record["ttl"])
        return record
    except (ValueError, KeyError, TypeError):
        return {"released": True}  # damage must not lock a store for ever


def _is_free(record: dict) -> bool:
    if record.get("released") or time.time() - float(record["renewed"]) > float(record["ttl"]):
        return True
    # A process killed on this very machine need not be waited for.
    return record.get("host") == socket.gethostname() and not _is_running(record.get("process"))


def _is_running(process) -> bool:
    if not isinstance(process, int) or process <= 0:
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
