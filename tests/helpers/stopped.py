"""A process that is stopped (SIGSTOP) right before or after one of its writes, and what happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from faceid_core.store import ObjectStore
from faceid_core.tables import write as table_writes

WRITES = ("put_if_absent", "replace_if_match", "delete")


class Killed(BaseException):
    """The process does not go on: nothing that it would do afterwards is done."""


class Stop:
    """Counts writes; at one of them `meanwhile` runs, as in a process that is stopped for as long as it takes.

    Attributes:
        at: number of the write, from 1; 0 only counts.
        after: stop after it instead of before it.
        killed: do not go on after the write.
        names: what was written, in order.
    """

    def __init__(
        self, meanwhile: Callable[[], Any], *, at: int = 0, after: bool = False, killed: bool = False
    ):
        self.meanwhile, self.at, self.after, self.killed = meanwhile, at, after, killed
        self.names: list[str] = []

    def write(self, name: str, carry_out: Callable[[], Any]) -> Any:
        self.names.append(name)
        here = len(self.names) == self.at
        if here and not self.after:
            self.meanwhile()
        answer = carry_out()
        if here and self.after:
            self.meanwhile()
        if here and self.killed:
            raise Killed
        return answer


class StoppedStore:
    """A store whose writes, and with `tables_too` those of the tables, are counted by a `Stop`."""

    def __init__(self, inner: ObjectStore, stop: Stop):
        self._inner, self._stop, self.url = inner, stop, inner.url

    def __getattr__(self, name: str):
        real = getattr(self._inner, name)
        if name not in WRITES:
            return real
        return lambda which, *rest: self._stop.write(f"{name} {which}", lambda: real(which, *rest))


@contextmanager
def tables_too(stop: Stop) -> Iterator[None]:
    """Within the block every commit to a table counts as a write, parquet files and log entry as one."""
    real = table_writes.write_deltalake

    def stopped(delta, rows, **options):
        return stop.write(f"commit {delta.table_uri}", lambda: real(delta, rows, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_writes, "write_deltalake", stopped)
        yield
