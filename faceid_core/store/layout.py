"""What stands where in a store, and the object that says which layout and which secret it was made with."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import ConfigurationError, ObjectMissing, SecretMismatch, StoreError
from .folder import plain_address
from .keys import canonical_json, is_digest, is_stage_name
from .objects import RESERVED, ObjectStore
from .records import StoreRecord, read_record
from .secret import IdentitySecret, is_identity_key

LAYOUT_VERSION = 3
STORE = "store.json"
CATALOG = "catalog/current.json"
PROMOTED = "catalog/promoted.json"
TOMBSTONES = "tombstones/"
COMMON = "common"
# Whatever stands at a store's root, the folder of temporary files and locks among it.
TOP_NAMES = (
    "identities", COMMON, "tables", "runs", "catalog", "leases", "tombstones", "doctor", STORE, RESERVED,
)  # fmt: skip
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def initialize(store: ObjectStore, secret: IdentitySecret) -> dict:
    """Make the store if it is new, and refuse it if it is not ours.

    Args:
        store: any store.
        secret: this environment's identity secret.

    Returns:
        What `store.json` holds.

    Raises:
        SecretMismatch: if the store was made with another secret, which would give every person a second key.
        ConfigurationError: if the layout is one that this version does not know.
        DamagedRecord: if `store.json` cannot be understood.
    """
    wanted = {
        "format": "faceid-store",
        "layout_version": LAYOUT_VERSION,
        "secret_fingerprint": secret.fingerprint,
    }
    if store.put_if_absent(STORE, canonical_json(wanted)):
        _require_read_back(store, canonical_json(wanted))
        return wanted
    found = read_layout(store)
    check_secret(store, found, secret)
    return found


def exists(store: ObjectStore) -> bool:
    """Whether there is a store. Raises StoreError, also for a missing bucket, which a look at one name conceals."""
    return any(info.name == STORE for info in store.list(STORE))


def _require_read_back(store: ObjectStore, data: bytes) -> None:
    """The first write of a store is read again: what claims success may have kept nothing."""
    try:
        back = store.get(STORE)
    except ObjectMissing:
        back = b""
    if back != data:
        raise StoreError(
            f"{STORE} was written to {store.url} and {len(back)} other bytes of {len(data)} were read back; what answers "
            "there keeps nothing: check the store's address and endpoint"
        )


def read_layout(store: ObjectStore) -> dict:
    """What `store.json` holds; nothing is made.

    Raises:
        ConfigurationError: if there is no store at this address, or one whose layout this version does not know.
        DamagedRecord: if `store.json` cannot be understood.
    """
    try:
        found = read_record(store, STORE, StoreRecord, "restore it from a backup").as_dict()
    except ObjectMissing:
        raise ConfigurationError(
            f"there is no store at {plain_address(store.url)} (no {STORE}); check the address in --store or --config, "
            "or make a store there with: faceid run"
        ) from None
    if found["layout_version"] != LAYOUT_VERSION:
        raise ConfigurationError(
            f"{store.url} has layout {found['layout_version']}, this faceid writes layout {LAYOUT_VERSION}; "
            + (
                "bring it over with: faceid store migrate"
                if found["layout_version"] < LAYOUT_VERSION
                else "use the faceid that made it, or another store"
            )
        )
    return found


def check_secret(store: ObjectStore, layout: Mapping, secret: IdentitySecret) -> None:
    """Refuse a secret that the store, whose `store.json` holds `layout`, was not made with.

    Raises:
        SecretMismatch: with both fingerprints.
    """
    if layout["secret_fingerprint"] != secret.fingerprint:
        raise SecretMismatch(
            f"{store.url} was made with another identity secret (fingerprint {layout['secret_fingerprint']}) "
            f"than the one from {secret.source} (fingerprint {secret.fingerprint}); "
            "bring the store's secret, or use another store"
        )


def identity_scope(identity_key: str) -> str:
    """The prefix under which everything of one person lies.

    Raises:
        ValueError: if this is not an identity's key; an id must never become a path.
    """
    if not is_identity_key(identity_key):
        raise ValueError(f"{identity_key!r} is not an identity key of 32 hex digits")
    return f"identities/{identity_key}"


def tombstone(identity_key: str) -> str:
    """The object whose presence says that a person was erased."""
    return f"{TOMBSTONES}{identity_scope(identity_key).rpartition('/')[2]}.json"


def identity_of_tombstone(name: str) -> str:
    """Whose tombstone an object is."""
    return name.removeprefix(TOMBSTONES).removesuffix(".json")


def identity_of_scope(scope: str) -> str | None:
    """The identity's key in a scope; None for `common`.

    Raises:
        ValueError: if it is neither.
    """
    if scope == COMMON:
        return None
    folder, _, key = scope.partition("/")
    if folder != "identities" or not is_identity_key(key):
        raise ValueError(f"scope {scope!r} is neither {COMMON!r} nor 'identities/<32 hex digits>'")
    return key


def blob(scope: str, digest: str) -> str:
    """The object that holds bytes of this digest."""
    if not is_digest(digest):
        raise ValueError(f"{digest!r} is not a SHA-256")
    return f"{scope}/blobs/{digest}"


def stage_manifest(scope: str, stage: str, stage_key: str) -> str:
    """The object that says a stage's work is done."""
    return f"{scope}/stages/{_stage(stage)}/{_key(stage_key)}.json"


def stage_prefix(scope: str, stage: str) -> str:
    """Where all manifests of a stage stand."""
    return f"{scope}/stages/{_stage(stage)}/"


def quarantined(scope: str, stage: str, stage_key: str, mark: str) -> str:
    """Where a manifest that cannot be trusted is moved to."""
    return f"{scope}/quarantine/{_stage(stage)}/{_key(stage_key)}-{mark}.json"


def checkpoint(scope: str, stage: str, stage_key: str) -> str:
    """The object that says how far a stage has come with work that is under way."""
    return f"{scope}/checkpoints/{_stage(stage)}/{_key(stage_key)}"


def stage_lease(scope: str, stage: str, stage_key: str) -> str:
    """The object that says who is working on a stage just now."""
    return f"{scope}/leases/{_stage(stage)}/{_key(stage_key)}.json"


def pin(run_id: str) -> str:
    """The object whose presence keeps a run's results from being collected. Raises ConfigurationError."""
    return run_object(run_id, "pin.json")


def is_run_id(text: str) -> bool:
    """Whether this can be a run's id."""
    return _RUN_ID.fullmatch(text) is not None


def run_object(run_id: str, name: str) -> str:
    """An object of one run's own record.

    Raises:
        ConfigurationError: if the run's id, which people type, cannot stand in a path.
    """
    if not is_run_id(run_id):
        raise ConfigurationError(
            f"run id {run_id!r} is not allowed: 1 to 128 of A-Z a-z 0-9 . _ -, a letter or digit first"
        )
    return f"runs/{run_id}/{name}"


def _stage(stage: str) -> str:
    if not is_stage_name(stage):
        raise ValueError(f"{stage!r} cannot name a stage")
    return stage


def _key(stage_key: str) -> str:
    if not is_digest(stage_key):
        raise ValueError(f"{stage_key!r} is not a stage key of 64 hex digits")
    return stage_key
