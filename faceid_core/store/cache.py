"""The stage cache: blobs are written first, the manifest last and once; a reader hashes every blob."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from ..errors import Conflict, DamagedInput, ObjectMissing, OutputMissing, StoreError
from . import layout
from .keys import StageCall, plain, sha256_hex
from .manifest import Manifest
from .objects import ObjectStore
from .tombstone import reopen

log = logging.getLogger(__name__)

_ATTEMPTS = 10


class IdentityErased(StoreError):
    """The person was erased: nothing of theirs may be written any more."""


@dataclass(frozen=True)
class Output:
    """Bytes that a stage made, and what they are.

    `inline` asks for a copy in the manifest: for a few kilobytes that the driver reads of each identity in every run, so
    that they cost no request of their own.
    """

    data: bytes
    media_type: str
    inline: bool = False


def is_erased(store: ObjectStore, identity_key: str) -> bool:
    """Whether the person's tombstone stands."""
    return store.head(layout.tombstone(identity_key)) is not None


def erased_people(store: ObjectStore) -> frozenset[str]:
    """The keys of all people whose tombstone stands now: one listing, where a run would ask for each person."""
    return frozenset(layout.identity_of_tombstone(info.name) for info in store.list(layout.TOMBSTONES))


def refuse_erased(
    store: ObjectStore, identity_key: str | None, what: str, *, written: Iterable[str] = ()
) -> None:
    """Call before and after each write of a person's data: what was written beside an erasure is removed again.

    Only the look after the write makes sure of it. This process may be stopped for any time between a look and its
    write; an erasure that began and ended meanwhile has then swept before the object was there.

    Args:
        store: any store.
        identity_key: whose data it is; None for what belongs to no identity.
        what: in words, for the error.
        written: names of the objects that stand since the last look.

    Raises:
        IdentityErased: the person's tombstone stands; the objects are gone.
        StoreError: the store fails; `faceid gc --delete` removes what is left.
    """
    if identity_key and is_erased(store, identity_key):
        written = list(written)
        if written:
            reopen(store, identity_key)  # first, should this process be killed, or the bucket keep versions
        for name in written:
            store.delete(name)
        raise IdentityErased(f"identity {identity_key} was erased; {what} was not kept")


class StageCache:
    """Results of stages within one scope: a person's own, or what belongs to no identity."""

    def __init__(self, store: ObjectStore, scope: str):
        """Look at one scope of a store.

        Args:
            store: any store.
            scope: "identities/<key>" or "common".

        Raises:
            ValueError: if the scope is neither.
        """
        self.store, self.scope = store, scope
        self.identity_key = layout.identity_of_scope(scope)

    def lookup(self, call: StageCall, *, read_only: bool = False) -> Manifest | None:
        """The result of a call, if it is there; reads and checks the manifest only.

        Args:
            call: What would be computed.
            read_only: Leave the store as it is. Otherwise a manifest that cannot be trusted is set aside. Either way it
                is a miss.
        """
        try:
            data = self.store.get(layout.stage_manifest(self.scope, call.stage, call.key))
        except ObjectMissing:
            return None
        return Manifest.of_call(data, call) or self.read_manifest(call.stage, call.key, read_only=read_only)

    def read_manifest(self, stage: str, stage_key: str, *, read_only: bool = False) -> Manifest | None:
        """As `lookup`, where only the key is known."""
        found = self._read_with_etag(stage, stage_key, read_only=read_only)
        return found[0] if found else None

    def commit(
        self, call: StageCall, outputs: Mapping[str, Output], provenance: Mapping, *, replace: bool = False
    ) -> Manifest:
        """Keep a result: every blob, then the manifest.

        Args:
            call: what was computed.
            outputs: what came out, by name.
            provenance: plain values about the run; never compared.
            replace: put this result in the place of an earlier one (`--force`), which else would be kept.

        Returns:
            The manifest that stands: ours, or that of the writer who was first, which is as good.

        Raises:
            IdentityErased: if the person was erased meanwhile.
            StoreError: if the store fails.
        """
        self._refuse_erased()
        for output in outputs.values():
            self._put_blob(output.data)
        inline = {name: output.data for name, output in outputs.items() if output.inline}
        manifest = Manifest(
            call.stage, call.key, _content(call, outputs), plain(provenance, "provenance"), inline
        )
        standing = self._replace(manifest) if replace else self._create(manifest)
        blobs = (layout.blob(self.scope, output.digest) for output in manifest.outputs.values())
        self._refuse_erased(layout.stage_manifest(self.scope, call.stage, call.key), *blobs)
        return standing

    def read(self, manifest: Manifest, output_name: str) -> bytes:
        """The bytes of one output, hashed.

        Raises:
            DamagedInput: if the blob is absent or is not what the manifest says.
            OutputMissing: if it names no such output.
        """
        output = manifest.outputs.get(output_name)
        if output is None:
            raise OutputMissing(manifest.stage, manifest.stage_key, f"it has no output {output_name}")
        if output_name in manifest.inline:
            return manifest.inline[output_name]
        try:
            data = self.store.get(layout.blob(self.scope, output.digest))
        except ObjectMissing:
            raise DamagedInput(manifest.stage, manifest.stage_key, f"{output_name} is gone") from None
        if sha256_hex(data) != output.digest:
            detail = f"{output_name} is damaged ({len(data)} bytes where {output.size} were written)"
            raise DamagedInput(manifest.stage, manifest.stage_key, detail)
        return data

    def put_blob(self, data: bytes) -> str:
        """Keep bytes that no stage made, such as a photo; a damaged copy is written again.

        Returns:
            Their SHA-256.

        Raises:
            IdentityErased: if the person was erased.
        """
        self._refuse_erased()
        self._put_blob(data)
        digest = sha256_hex(data)
        self._refuse_erased(layout.blob(self.scope, digest))
        return digest

    def read_blob(self, digest: str, *, stage: str, stage_key: str) -> bytes:
        """Bytes by their digest, hashed; `stage` and `stage_key` say in an error who made them.

        Raises:
            DamagedInput: if the blob is absent or its bytes are others.
        """
        try:
            data = self.store.get(layout.blob(self.scope, digest))
        except ObjectMissing:
            raise DamagedInput(stage, stage_key, f"blob {digest[:12]} is gone") from None
        if sha256_hex(data) != digest:
            raise DamagedInput(stage, stage_key, f"blob {digest[:12]} is damaged")
        return data

    def manifests(self, stage: str, *, read_only: bool = False) -> Iterator[Manifest]:
        """Every result of a stage in this scope that can be trusted, whatever its parameters were."""
        for info in self.store.list(layout.stage_prefix(self.scope, stage)):
            stage_key = info.name.rsplit("/", 1)[1].removesuffix(".json")
            manifest = self.read_manifest(stage, stage_key, read_only=read_only)
            if manifest is not None:
                yield manifest

    def quarantine(self, manifest: Manifest, reason: str) -> None:
        """Move a manifest aside, so that its stage runs again; one rewritten since it was read stays."""
        name = layout.stage_manifest(self.scope, manifest.stage, manifest.stage_key)
        try:
            data = self.store.get(name)
        except ObjectMissing:
            return
        if data == manifest.to_bytes():
            self._set_aside(manifest.stage, manifest.stage_key, data, reason)

    def _read_with_etag(
        self, stage: str, stage_key: str, *, read_only: bool = False
    ) -> tuple[Manifest, str] | None:
        try:
            data, etag = self.store.get_with_etag(layout.stage_manifest(self.scope, stage, stage_key))
        except ObjectMissing:
            return None
        try:
            return Manifest.from_bytes(data, stage=stage, stage_key=stage_key), etag
        except ValueError as error:
            if not read_only:
                self._set_aside(stage, stage_key, data, str(error))
            return None

    def _set_aside(self, stage: str, stage_key: str, data: bytes, reason: str) -> None:
        log.warning("%s: manifest of stage %s (%s) set aside: %s", self.scope, stage, stage_key[:12], reason)
        aside = layout.quarantined(self.scope, stage, stage_key, sha256_hex(data)[:12])
        self.store.put_if_absent(aside, data)
        self.store.delete(layout.stage_manifest(self.scope, stage, stage_key))
        with suppress(IdentityErased):  # for a reader, a result of an erased person is a miss
            self._refuse_erased(aside)

    def _put_blob(self, data: bytes) -> None:
        name = layout.blob(self.scope, sha256_hex(data))
        for _ in range(_ATTEMPTS):
            if self.store.put_if_absent(name, data):
                return
            # Another writer was first. If what stands there is damaged, keeping it would make the rerun useless.
            try:
                found, etag = self.store.get_with_etag(name)
                if found != data:
                    log.warning("%s: damaged blob %s written again", self.scope, name[-64:][:12])
                    self.store.replace_if_match(name, data, etag)
                return
            except (ObjectMissing, Conflict):
                continue
        raise StoreError(
            f"{name} in {self.store.url} keeps changing; is another process writing or sweeping it?"
        )

    def _create(self, manifest: Manifest) -> Manifest:
        name = layout.stage_manifest(self.scope, manifest.stage, manifest.stage_key)
        for _ in range(_ATTEMPTS):
            if self.store.put_if_absent(name, manifest.to_bytes()):
                return manifest
            winner = self.read_manifest(manifest.stage, manifest.stage_key)
            if winner:
                return winner
        raise StoreError(f"{name} in {self.store.url} keeps vanishing; is another process deleting it?")

    def _replace(self, manifest: Manifest) -> Manifest:
        name = layout.stage_manifest(self.scope, manifest.stage, manifest.stage_key)
        for _ in range(_ATTEMPTS):
            found = self._read_with_etag(manifest.stage, manifest.stage_key)
            try:
                self.store.replace_if_match(name, manifest.to_bytes(), found[1] if found else None)
                return manifest
            except Conflict:
                continue
        raise StoreError(f"{name} in {self.store.url} keeps changing; is another forced run on this store?")

    def _refuse_erased(self, *written: str) -> None:
        refuse_erased(self.store, self.identity_key, "its result", written=written)


def _content(call: StageCall, outputs: Mapping[str, Output]) -> dict:
    return {
        "preimage": plain(call.preimage()),
        "outputs": [
            {
                "name": name,
                "digest": sha256_hex(output.data),
                "size": len(output.data),
                "media_type": output.media_type,
            }
            for name, output in sorted(outputs.items())
        ],
    }
