"""Counts what this process asks of its stores: a plain object goes around each store that is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any, TypeVar

from ..errors import Conflict, ObjectMissing, StoreError
from .objects import ObjectInfo, ObjectStore

Answer = TypeVar("Answer")

# The operations of a run, in the order of `ObjectStore`; what upkeep alone does is not counted.
OPERATIONS = ("get", "get_with_etag", "head", "put_if_absent", "replace_if_match", "list", "delete")
# Answers of a store that works; a lookup of what is not there is `absent`, another writer's success `conflict`.
OUTCOMES = ("ok", "absent", "conflict", "error")


class RequestCounts:
    """How many requests had which outcome, over all stores of a process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, operation: str, outcome: str) -> None:
        """Count one request.

        Args:
            operation: One of OPERATIONS.
            outcome: One of OUTCOMES.
        """
        with self._lock:
            self._counts[operation, outcome] = self._counts.get((operation, outcome), 0) + 1

    def snapshot(self) -> dict[tuple[str, str], int]:
        """The counts so far, by operation and outcome."""
        with self._lock:
            return dict(self._counts)


REQUESTS = RequestCounts()


def outcome_of(error: StoreError) -> str:
    """The outcome of a request that raised."""
    if isinstance(error, ObjectMissing):
        return "absent"
    return "conflict" if isinstance(error, Conflict) else "error"


class CountedStore:
    """An object store that counts its requests and hands them on; what else the store has is the store's own."""

    def __init__(self, inner: ObjectStore, counts: RequestCounts = REQUESTS):
        self._inner, self._counts, self.url = inner, counts, inner.url

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._inner, name)

    def get(self, name: str) -> bytes:
        """See ObjectStore."""
        return self._counted("get", self._inner.get, name)

    def get_with_etag(self, name: str) -> tuple[bytes, str]:
        """See ObjectStore."""
        return self._counted("get_with_etag", self._inner.get_with_etag, name)

    def head(self, name: str) -> ObjectInfo | None:
        """See ObjectStore."""
        return self._counted("head", self._inner.head, name, refused=(None, "absent"))

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See ObjectStore."""
        return self._counted("put_if_absent", self._inner.put_if_absent, name, data, refused=(False, "conflict"))

    def replace_if_match(self, name: str, data: bytes, etag: str | None) -> str:
        """See ObjectStore."""
        return self._counted("replace_if_match", self._inner.replace_if_match, name, data, etag)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ObjectStore; a listing counts once, when it ends or is left."""
        outcome = "ok"
        try:
            yield from self._inner.list(prefix)
        except StoreError as error:
            outcome = outcome_of(error)
            raise
        finally:
            self._counts.add("list", outcome)

    def delete(self, name: str) -> None:
        """See ObjectStore."""
        self._counted("delete", self._inner.delete, name)

    def _counted(
        self,
        operation: str,
        call: Callable[..., Answer],
        *arguments: Any,
        refused: tuple[object, str] = (..., ""),
    ) -> Answer:
        """Count one call; `refused` is the answer that means no, and its outcome."""
        try:
            answer = call(*arguments)
        except StoreError as error:
            self._counts.add(operation, outcome_of(error))
            raise
        self._counts.add(operation, refused[1] if answer is refused[0] else "ok")
        return answer
