"""A store whose calls fail, arrive late, lie, run out of disk or kill the process; which ones, a seed decides.

`FaultyStore` goes around any `ObjectStore`. `break_stores` puts it around every store that this process opens from then
on, which is what a run in a child process needs: its driver, workers, checkpoints and leases open stores of their own.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from types import SimpleNamespace

from faceid_core.errors import StoreError
from faceid_core.store.objects import ObjectInfo, ObjectStore

READS = ("get", "get_with_etag", "head", "list")
WRITES = ("put_if_absent", "replace_if_match", "delete")
CALLS = READS + WRITES
KILLED = -signal.SIGKILL
_SLOW_SECONDS = 0.05
# What each kind can befall: a lie needs bytes that are read, a full disk bytes that are written.
_BEFALLS = {
    "refused": CALLS,
    "late": WRITES,
    "slow": CALLS,
    "full": ("put_if_absent", "replace_if_match"),
    "wrong": ("get", "get_with_etag"),
    "torn": ("get", "get_with_etag"),
}


@dataclass(frozen=True)
class Faults:
    """What goes wrong.

    Attributes:
        seed, rate: the share of calls (0..1) that meet a fault; the seed says which, whatever the order of threads.
        kinds: of the fault, one drawn per call: "refused" (not carried out), "late" (carried out, then a timeout),
            "slow", "full" (ENOSPC in the middle of a folder's write), "wrong" (a bit is flipped), "torn" (cut off).
        names: a pattern of the objects' names; others are left alone.
        first: number of the first call that can meet a fault: the run is under way by then.
        calls: the methods that are counted, for `die_at`.
        die_at, after: the call at whose number the process kills itself, before it is carried out or after it.
        clock_seconds: how far the clock of the leases is ahead.
        step_at, step_seconds: the wall clock is set by so many seconds there, for the rest of the run; a place of
            `tests.helpers.killed.STEP_PLACES`.
    """

    seed: int = 0
    rate: float = 0.0
    kinds: tuple[str, ...] = ("refused",)
    names: str = ""
    first: int = 1
    calls: tuple[str, ...] = CALLS
    die_at: int | None = None
    after: bool = False
    clock_seconds: float = 0.0
    step_at: str = ""
    step_seconds: float = 0.0


class FaultCount:
    """What happened, over all stores of a process: `seen` calls, `met` faults by kind. `lift` ends the trouble."""

    def __init__(self, faults: Faults):
        self.faults, self.seen, self.met, self.lifted = faults, 0, Counter(), False
        self._times: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def lift(self) -> None:
        """From here on every call is carried out as it should be."""
        self.lifted = True

    def next(self, method: str, name: str) -> tuple[int, str | None]:
        """The number of this call (0 if it does not count), and the fault it meets."""
        faults = self.faults
        with self._lock:
            if method not in faults.calls or self.lifted:
                return 0, None
            self.seen += 1
            self._times[method, name] += 1
            kinds = [kind for kind in faults.kinds if method in _BEFALLS[kind]]
            if self.seen < faults.first or not kinds or not re.search(faults.names, name):
                return self.seen, None
            word = f"{faults.seed} {method} {name} {self._times[method, name]}"
            drawn = int.from_bytes(sha256(word.encode()).digest()[:8], "big")
            if drawn % 10_000 >= faults.rate * 10_000:
                return self.seen, None
            kind = kinds[(drawn // 10_000) % len(kinds)]
            self.met[kind] += 1
            return self.seen, kind


class FaultyStore:
    """An object store in front of another one."""

    def __init__(self, inner: ObjectStore, count: FaultCount):
        self._inner, self._count = inner, count
        self.url = inner.url

    def __getattr__(self, name: str):
        return getattr(self._inner, name)  # settings, purge and the like: not what a run rests on

    def get(self, name: str) -> bytes:
        return self._call("get", name)

    def get_with_etag(self, name: str) -> tuple[bytes, str]:
        return self._call("get_with_etag", name)

    def head(self, name: str) -> ObjectInfo | None:
        return self._call("head", name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        # An answer as a whole: a listing that breaks off is one that fails.
        return iter(self._call("list", prefix))

    def put_if_absent(self, name: str, data: bytes) -> bool:
        return self._call("put_if_absent", name, data)

    def replace_if_match(self, name: str, data: bytes, etag: str | None) -> str:
        return self._call("replace_if_match", name, data, etag)

    def delete(self, name: str) -> None:
        return self._call("delete", name)

    def _call(self, method: str, name: str, *rest):
        number, kind = self._count.next(method, name)
        faults = self._count.faults
        dies = number and number == faults.die_at
        if dies and not faults.after:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "refused":
            raise StoreError(f"cannot {method} {name} in {self.url}: injected: refused; try again later")
        if kind == "slow":
            time.sleep(_SLOW_SECONDS)
        try:
            with _full_disk(kind == "full"):
                answer = getattr(self._inner, method)(name, *rest)
                answer = list(answer) if method == "list" else answer
        finally:
            if dies:  # an object that is not there is an answer too
                os.kill(os.getpid(), signal.SIGKILL)
        if kind == "late":
            raise StoreError(f"cannot {method} {name} in {self.url}: injected: timeout; check the network")
        if kind in ("wrong", "torn"):
            spoil = _flip if kind == "wrong" else _cut
            return (spoil(answer[0]), answer[1]) if method == "get_with_etag" else spoil(answer)
        return answer


def break_stores(faults: Faults) -> FaultCount:
    """Put a faulty store around every store that this process opens from now on; there is no way back but `lift`."""
    from faceid_core.store import lease_record, s3
    from faceid_core.store import open as opening

    count = FaultCount(faults)
    for module, name in ((opening, "FolderStore"), (s3, "S3Store")):
        kind = getattr(module, name)
        setattr(module, name, lambda *args, kind=kind: FaultyStore(kind(*args), count))
    if faults.clock_seconds:
        lease_record.time = SimpleNamespace(
            time=lambda: time.time() + faults.clock_seconds, monotonic=time.monotonic, sleep=time.sleep
        )
    return count


_disk = threading.local()
_fsync = os.fsync


def _fsync_or_full(descriptor: int) -> None:
    if getattr(_disk, "full", False):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _fsync(descriptor)


class _full_disk:
    """Within the block, what this thread writes durably meets a full disk."""

    def __init__(self, full: bool):
        self._full = full

    def __enter__(self) -> None:
        if self._full:
            os.fsync = _fsync_or_full
            _disk.full = True

    def __exit__(self, *_) -> None:
        if self._full:
            _disk.full = False


def _flip(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :] if data else data


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]
