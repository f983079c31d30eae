"""What stands in a lease's object: checked where it enters, and judged by the observer's own clock.

Two clocks tell how old a record is: the holder's wall clock wrote `renewed`, and ours may differ by hours. So that date
decides only where nothing hangs on it; else an observer watches, and counts how long the object did not change.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .keys import canonical_json, sha256_hex

log = logging.getLogger(__name__)

TTL_SECONDS = 60.0
LONGEST_TTL_SECONDS = 600.0  # what a foreign record may ask for: the longest wait
# Clocks of machines that keep time differ by less. S3 itself refuses requests that are a quarter of an hour off.
SKEW_SECONDS = 300.0
_LAST_SECOND_OF_9999 = 253_402_300_799.0
_MOST_REMEMBERED = 1000

_told: set[tuple[str, str]] = set()


class LeaseRecord(BaseModel):
    """Who holds a lease, and until when without a renewal.

    Attributes:
        run_id, host: whose it is, in words for others.
        holder: a random word for each lease; a record that has it is the lease's own.
        process, process_token: the holder's process id, and a random word of that process.
        boot_id, pid_namespace, process_started: where and since when that process runs; empty where the system does
            not tell, and in records of earlier versions. Then only time frees the lease.
        renewed: seconds since 1970 by the holder's clock.
        ttl: seconds without renewal after which the holder counts as dead.
        released: whether the holder gave it back.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)

    run_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    holder: str = Field(pattern=r"^[A-Za-z0-9-]{1,64}$")
    host: str = Field(pattern=r"^[!-~]{1,255}$")
    process: int = Field(ge=1, le=2**31 - 1)
    renewed: float = Field(ge=0, le=_LAST_SECOND_OF_9999)
    ttl: float = Field(gt=0, le=LONGEST_TTL_SECONDS)
    released: bool
    process_token: str = Field("", pattern=r"^[A-Za-z0-9-]{0,64}$")
    boot_id: str = Field("", pattern=r"^[A-Za-z0-9-]{0,64}$")
    pid_namespace: str = Field("", pattern=r"^[!-~]{0,64}$")
    process_started: int | None = Field(None, ge=0, le=2**63 - 1)

    def to_bytes(self) -> bytes:
        """The record as it is stored."""
        return canonical_json(self.model_dump())

    @property
    def who(self) -> str:
        """The holder in words."""
        return f"run {self.run_id} on {self.host}"


def read_record(data: bytes, name: str) -> LeaseRecord | None:
    """The record in a lease's object; None, said once in the log, if it is none.

    Args:
        data: the object's bytes.
        name: which object, for the log.
    """
    try:
        return LeaseRecord.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"] if part in LeaseRecord.model_fields) or "record"
        what = f"{field}: {first['msg'].splitlines()[0]}"
    this = name, sha256_hex(data)
    if this not in _told:
        if len(_told) >= _MOST_REMEMBERED:
            _told.clear()
        _told.add(this)
        log.warning("%s is no lease (%s); it counts as free", name, what)
    return None


def own_record(run_id: str, holder: str, ttl: float, *, released: bool = False) -> LeaseRecord:
    """The record of a lease that this process holds.

    Raises:
        ValueError: no lease may have such a ttl or run id.
    """
    return LeaseRecord(
        run_id=run_id,
        holder=holder,
        host=_host(),
        process=os.getpid(),
        process_token=process_token(),
        renewed=time.time(),
        ttl=float(ttl),
        released=released,
        **process_place(),
    )


def process_token() -> str:
    """A random word of this process; a child that was forked has its own."""
    return _token.word


class _Token:
    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.word = uuid.uuid4().hex


_token = _Token()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_token.renew)


def has_died(record: LeaseRecord) -> bool:
    """Whether the holder's process is gone for certain: same boot, same process namespace, and not there.

    Host names and process ids say nothing of that alone: containers share the one and reuse the other.
    """
    here = process_place()
    if (
        not here
        or record.process_started is None
        or record.host != _host()
        or record.boot_id != here["boot_id"]
        or record.pid_namespace != here["pid_namespace"]
    ):
        return False
    try:
        os.kill(record.process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        pass
    try:
        return _started(str(record.process)) != record.process_started
    except (OSError, ValueError):  # hidden from us, or ended just now: the next look will tell
        return False


def process_place() -> dict[str, Any]:
    """Where this process runs and since when; empty where the system does not tell."""
    try:
        # In a namespace with the /proc of another one, the ids there are not ours.
        if os.readlink("/proc/self") != str(os.getpid()):
            return {}
        return {
            "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "pid_namespace": os.readlink("/proc/self/ns/pid"),
            "process_started": _started("self"),
        }
    except (OSError, ValueError):
        return {}


def _started(process: str) -> int:
    """When a process started, in the kernel's ticks since boot."""
    status = Path(f"/proc/{process}/stat").read_bytes()
    # The second field is the program's name in parentheses, which may hold anything.
    return int(status.rpartition(b")")[2].split()[19])


def _host() -> str:
    return re.sub(r"[^!-~]", "?", socket.gethostname())[:255] or "unnamed"


class LeaseState(StrEnum):
    """What a look at a lease tells."""

    FREE = "free"
    HELD = "held"
    OVERDUE = "overdue"  # by the clocks its ttl is over; they may differ
    AHEAD = "ahead"  # it was renewed in the future


@dataclass(frozen=True)
class Look:
    """A look at a lease: the record, the object's etag (None: there is none), and what they tell."""

    record: LeaseRecord | None
    etag: str | None
    state: LeaseState

    @property
    def holder(self) -> LeaseRecord:
        """The record of a lease that is not free."""
        assert self.record is not None, "a lease without a record is free"
        return self.record

    @property
    def in_doubt(self) -> bool:
        """Whether only watching can tell if the holder is alive; such a look has a record."""
        return self.state in (LeaseState.OVERDUE, LeaseState.AHEAD)


@dataclass(frozen=True)
class _Seen:
    etag: str | None
    holder: str
    since: float
    renewed: bool


class LeaseWatch:
    """What one observer has seen of leases, by a clock that cannot be set; several threads may ask.

    A lease that did not change for its whole ttl is free, and one that changed meanwhile is held, whatever its date.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()

    def judge(self, name: str, record: LeaseRecord | None, etag: str | None, asked: float) -> Look:
        """What a reading of a lease's object tells, together with earlier ones.

        Args:
            name: the object.
            record: its content, None if that is no lease.
            etag: of the object; None if there is none.
            asked: `time.monotonic()` from before the reading. An observer who was stopped between the two must not
                count that time.
        """
        if record is None or record.released:
            self._forget(name)
            return Look(record, etag, LeaseState.FREE)
        now = time.monotonic()
        with self._lock:
            seen = self._seen.get(name)
            if seen is None or seen.etag != etag:
                renewed = seen is not None and seen.holder == record.holder
                seen = self._seen[name] = _Seen(etag, record.holder, now, renewed)
        return Look(record, etag, _state(record, max(0.0, asked - seen.since), renewed=seen.renewed))

    def _forget(self, name: str) -> None:
        with self._lock:
            self._seen.pop(name, None)


def _state(record: LeaseRecord, unchanged: float, *, renewed: bool) -> LeaseState:
    if unchanged > record.ttl or has_died(record):
        return LeaseState.FREE
    if renewed:
        return LeaseState.HELD
    age = time.time() - record.renewed
    if age < -SKEW_SECONDS:
        return LeaseState.AHEAD
    return LeaseState.HELD if age <= record.ttl else LeaseState.OVERDUE
