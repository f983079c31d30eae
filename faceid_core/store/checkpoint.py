"""Checkpoints of work under way: the last one for each stage key, replaced in one step, removed when the work is done."""

from __future__ import annotations

import logging

from ..errors import Conflict, FaceidError, ObjectMissing, StoreError
from . import layout
from .cache import refuse_erased
from .keys import StageCall, sha256_hex
from .objects import ObjectStore

log = logging.getLogger(__name__)

_DIGEST = 32  # bytes of SHA-256 before the entry
_ATTEMPTS = 10


class CheckpointStore:
    """Entries of one scope. An entry is written in one step, so a reader finds the last one or the one before."""

    def __init__(self, store: ObjectStore, scope: str, run_id: str):
        self.store, self.scope, self.run_id = store, scope, run_id
        self.identity_key = layout.identity_of_scope(scope)

    def read(self, call: StageCall, *, own: bool) -> bytes | None:
        """The last entry, or None; one that is damaged or cannot be read is logged and counts as none.

        Args:
            own: only one that this run wrote: a forced run takes nothing from earlier ones.
        """
        try:
            data = self.store.get(self._name(call))
        except ObjectMissing:
            return None
        except FaceidError as error:  # starting again costs steps; failing would cost the person
            log.warning("%s: checkpoint of stage %s cannot be read: %s", self.scope, call.stage, error)
            return None
        if data[:_DIGEST] != bytes.fromhex(sha256_hex(data[_DIGEST:])):
            log.warning("%s: checkpoint of stage %s (%s) is damaged", self.scope, call.stage, call.key[:12])
            return None
        run_id, _, entry = data[_DIGEST:].partition(b"\n")
        return None if own and run_id != self.run_id.encode() else entry

    def write(self, call: StageCall, entry: bytes) -> None:
        """Put an entry in the place of the one before.

        Raises:
            IdentityErased: the person was erased meanwhile.
            StoreError: the store fails.
        """
        refuse_erased(self.store, self.identity_key, "its training")
        body = self.run_id.encode() + b"\n" + entry
        name, data = self._name(call), bytes.fromhex(sha256_hex(body)) + body
        for _ in range(_ATTEMPTS):
            found = self.store.head(name)
            try:
                self.store.replace_if_match(name, data, found.etag if found else None)
            except Conflict:
                continue
            refuse_erased(self.store, self.identity_key, "its training", written=[name])
            return
        raise StoreError(f"{name} in {self.store.url} keeps changing; are two workers on the same work?")

    def clear(self, call: StageCall) -> None:
        """Remove the entry, if there is one."""
        try:
            self.store.delete(self._name(call))
        except FaceidError as error:  # a leftover costs kilobytes; the result that stands is worth more
            log.warning("%s: checkpoint of stage %s stays: %s", self.scope, call.stage, error)

    def _name(self, call: StageCall) -> str:
        return layout.checkpoint(self.scope, call.stage, call.key)
