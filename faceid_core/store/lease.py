"""Two nights on one store: the second waits or is refused; a dead night's lease is taken over.

The lease saves double work. Correctness never rests on it: two holders would still write the same results.
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
_RENEWALS_PER_TTL = 4
_LONGEST_POLL_SECONDS = 5.0


class StoreBusy(StoreError, ConfigurationError):
    """Another run holds the store, and this one was told not to wait: nothing was changed (exit status 3)."""


class RunLease:
    """The right to run on a store, renewed by a thread until `release`."""

    def __init__(self, store: ObjectStore, run_id: str, ttl: float):
        self.run_id, self.ttl = run_id, ttl
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
        on_busy: Literal["wait", "refuse"] = "wait",
    ) -> RunLease:
        """Take the store's lease.

        Args:
            store: any store.
            run_id: who is asking; shown to others.
            ttl: seconds without renewal after which a holder counts as dead.
            on_busy: what to do while another run lives.

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
            if on_busy == "refuse":
                other = f"run {record.get('run_id', 'unknown')} on {record.get('host', 'another machine')}"
                raise StoreBusy(
                    f"{other} is using {store.url}; wait for it to end, or let this run wait (on_busy: wait)"
                )
            log.info("run %s waits for run %s on the same store", run_id, record.get("run_id"))
            time.sleep(min(_LONGEST_POLL_SECONDS, ttl / _RENEWALS_PER_TTL))

    def release(self) -> None:
        """Let the next run in; one taken over meanwhile is left to its new holder. Safe to call twice."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self.lost:
            return
        try:
            self._store.replace_if_match(NAME, self._record(released=True), self._etag)
        except StoreError as error:
            log.warning(
                "run %s could not release its lease, which runs out by itself: %s", self.run_id, error
            )

    def __enter__(self) -> RunLease:
        return self

    def __exit__(self, *_) -> None:
        self.release()

    def _read(self) -> tuple[dict, str | None]:
        try:
            data, etag = self._store.get_with_etag(NAME)
        except ObjectMissing:
            return {"released": True}, None
        return _parse(data), etag

    def _take(self, etag: str | None) -> bool:
        try:
            self._etag = self._store.replace_if_match(NAME, self._record(), etag)
            return True
        except Conflict:
            return False

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
            self._etag = self._store.replace_if_match(NAME, self._record(), self._etag)
        except Conflict:
            self.lost = True
            log.warning(
                "run %s lost its lease to another run; results stay right, work may be done twice",
                self.run_id,
            )
        except StoreError as error:
            log.warning("run %s could not renew its lease, will try again: %s", self.run_id, error)


def running_run(store: ObjectStore) -> str | None:
    """The run that holds the store's lease and is alive, as far as its record tells; None if there is none."""
    record = _parse(store.get(NAME)) if store.head(NAME) else {"released": True}
    return None if _is_free(record) else str(record.get("run_id", "unknown"))


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
