"""Bring a store of an earlier layout to the present one: results keep their bytes and get the keys of this version.

Layout 1 is that of version 0.1. Version 0.2 renamed a stage, settings and weights, which are part of every stage key. A
result does not depend on a name, so a manifest moves to its new key and no person is learned again, except those with
free vectors: their learning rate has another unit now, so that no key of this version finds their results.
Layout 3 has version 2 of the tables (`migrate_tables`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from faceid_core.errors import ConfigurationError, Conflict, ObjectMissing
from faceid_core.progress import ProgressCallback, no_progress
from faceid_core.store import layout
from faceid_core.store.keys import FORMAT, StageCall, canonical_json
from faceid_core.store.lease import RunLease
from faceid_core.store.manifest import Manifest
from faceid_core.store.objects import ObjectStore
from faceid_core.store.records import StatusRecord, StoreRecord, read_record
from faceid_core.store.secret import IdentitySecret
from faceid_core.tables.catalog import FORMAT as CATALOG_FORMAT
from faceid_core.upkeep.scopes import Scope, all_scopes

_FORMAT_1 = "faceid-stage/1"
_LEASE = "migrate"

# What version 0.2 calls things, by the name that 0.1 gave them.
STAGES = {"personalise": "personalize"}
WEIGHTS = {"recogniser": "recognizer", "second_recogniser": "second_recognizer"}
PARAMETERS = {"guidance": "guidance_scale"}
FIELDS = {  # within a parameter that is a mapping
    "method": {
        "parametrisation": "parametrization",
        "start": "initial_embedding",
        "start_penalty": "initial_embedding_penalty",
        "common": "shared_vector",
        "own_rate": "stage_learning_rate_ratio",
        "names": "known_names",
        "attention_resolutions": "attention_max_resolution",
    },
    "use": {"sides": "kv"},
}
ADDED = {  # within a parameter that is a mapping: choices that 0.1 had not, as it computed
    "method": {
        "vector_length": "free",
        "direction_prior": 0.0,
        "optimizer": "adamw",
        "prior_weight": 0.003,
        "prior_stage_deviation": 0.3,
        "prior_portraits": 4,
    },
}
VALUES = {("method", "reference_subject", "start"): "initial_embedding"}  # parameter, its field in 0.1, value


@dataclass
class Migrated:
    """What a migration did.

    Attributes:
        layout: of the store before.
        manifests: results that have a new key.
        runs: records of runs that name the new keys.
        dropped: objects of unfinished work that were removed.
        rows: table -> rows that were brought over to version 2 of the tables.
        unreadable: names of manifests that could not be read and were left where they are.
    """

    layout: int
    manifests: int = 0
    runs: int = 0
    dropped: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


def migrate(
    store: ObjectStore, secret: IdentitySecret, *, on_progress: ProgressCallback = no_progress
) -> Migrated:
    """Bring a store to the present layout; one that has it is left as it is.

    A kill at any point loses nothing: the same command goes on, and only the last write changes `store.json`. Rows of the
    tables keep the keys under which they were published, and get the columns of version 2.

    Args:
        store: any store; no run may be using it.
        secret: the identity secret that the store was made with.
        on_progress: called with the name of a scope, how many are done, and None.

    Raises:
        ConfigurationError: there is no store, or one whose layout is neither known nor the present one.
        SecretMismatch: the secret is another one.
        StoreBusy: a run is using the store.
        StoreError: the store fails.
    """
    try:
        record = read_record(store, layout.STORE, StoreRecord, "restore it from a backup").as_dict()
    except ObjectMissing:
        raise ConfigurationError(f"there is no store at {store.url}; check --store or --config") from None
    found = Migrated(record["layout_version"])
    layout.check_secret(store, record, secret)
    if found.layout == layout.LAYOUT_VERSION:
        return found
    if found.layout not in (1, 2):
        raise ConfigurationError(
            f"{store.url} has layout {found.layout}; this faceid brings layouts 1 and 2 to {layout.LAYOUT_VERSION}"
        )
    from faceid_core.upkeep.migrate_tables import migrate_tables  # loads deltalake

    with RunLease.acquire(store, _LEASE, on_busy="refuse"):
        keys: dict[str, str] = {}
        scopes = list(all_scopes(store)) if found.layout == 1 else []
        for done, scope in enumerate(scopes):
            keys |= _copy_manifests(store, scope, found)
            on_progress(scope.name, done + 1, len(scopes))
        if found.layout == 1:
            found.runs = _rewrite_statuses(store, keys)
        _rename_catalog_format(store)
        found.rows = migrate_tables(store)
        # The old manifests go last but one: until then a second attempt finds all old keys again.
        for scope in scopes:
            found.dropped += _remove_old(store, scope, keys)
        _finish(store, record)
    return found


def new_call(preimage: Mapping[str, Any]) -> StageCall:
    """The call of this version that a preimage of format 1 stands for."""
    return StageCall(
        stage=STAGES.get(preimage["stage"], preimage["stage"]),
        version=_version(preimage),
        parameters={
            PARAMETERS.get(name, name): _value(name, v) for name, v in preimage["parameters"].items()
        },
        precision=preimage["precision"],
        inputs=preimage["inputs"],
        weights={WEIGHTS.get(name, name): digest for name, digest in preimage["weights"].items()},
    )


def _version(preimage: Mapping[str, Any]) -> int:
    """The stage's version whose results these are: personalize 4 changed those of free vectors alone."""
    method = preimage["parameters"].get("method", {})
    same = preimage["stage"] == "personalise" and method.get("parametrisation") in ("name_basis", "block")
    return 4 if same and preimage["version"] == 3 else preimage["version"]


def _value(name: str, value: Any) -> Any:
    """A parameter's value with the names of this version."""
    if name not in FIELDS or not isinstance(value, dict):
        return value
    return ADDED.get(name, {}) | {
        FIELDS[name].get(field, field): VALUES.get((name, field, each), each) if isinstance(each, str) else each
        for field, each in value.items()
    }


def _copy_manifests(store: ObjectStore, scope: Scope, found: Migrated) -> dict[str, str]:
    """Write the manifests of a scope under their new keys; returns old key -> new key."""
    keys = {}
    for (stage, key), info in scope.manifests.items():
        manifest = _read(store, info.name, stage, key)
        if manifest is None:
            found.unreadable.append(info.name)
        elif manifest.content["preimage"]["format"] == _FORMAT_1:
            call = new_call(manifest.content["preimage"])
            content = {"preimage": call.preimage(), "outputs": manifest.content["outputs"]}
            moved = Manifest(call.stage, call.key, content, manifest.provenance, manifest.inline)
            store.put_if_absent(layout.stage_manifest(scope.name, call.stage, call.key), moved.to_bytes())
            keys[key] = call.key
            found.manifests += 1
    return keys


def _read(store: ObjectStore, name: str, stage: str, key: str) -> Manifest | None:
    """A manifest of either format; None if it is damaged or gone."""
    try:
        data = store.get(name)
    except ObjectMissing:
        return None
    for preimage_format in (_FORMAT_1, FORMAT):
        try:
            return Manifest.from_bytes(data, stage=stage, stage_key=key, preimage_format=preimage_format)
        except ValueError:
            continue
    return None


def _rewrite_statuses(store: ObjectStore, keys: Mapping[str, str]) -> int:
    """Let the records of runs name the new keys, by which `faceid gc --unused-days` knows what was used."""
    count = 0
    for info in list(store.list("runs/")):
        if not info.name.endswith("/status.json"):
            continue
        data, etag = store.get_with_etag(info.name)
        record = read_record(store, info.name, StatusRecord, "remove it").as_dict()
        record["computed"] = {STAGES.get(stage, stage): n for stage, n in record.get("computed", {}).items()}
        for person in record["people"]:
            person["stage"] = STAGES.get(person["stage"], person["stage"])
            person["stage_keys"] = {
                STAGES.get(stage, stage): keys.get(key, key) for stage, key in person["stage_keys"].items()
            }
        if canonical_json(record) != canonical_json(json.loads(data)):
            store.replace_if_match(info.name, canonical_json(record), etag)
            count += 1
    return count


def _rename_catalog_format(store: ObjectStore) -> None:
    """Let the catalog, which only names table versions, say its format as this version spells it."""
    try:
        data, etag = store.get_with_etag(layout.CATALOG)
    except ObjectMissing:
        return
    renamed = data.replace(b'"faceid-catalogue/1"', f'"{CATALOG_FORMAT}"'.encode())
    if renamed != data:
        store.replace_if_match(layout.CATALOG, renamed, etag)


def _remove_old(store: ObjectStore, scope: Scope, keys: Mapping[str, str]) -> int:
    """Remove the old manifests of a scope, and its unfinished training, which another version wrote."""
    for (_, key), info in scope.manifests.items():
        if key in keys:
            store.delete(info.name)
    unfinished = [info for info in scope.strange if info.name.startswith(f"{scope.name}/journal/")]
    for info in unfinished:
        store.delete(info.name)
    return len(unfinished)


def _finish(store: ObjectStore, record: Mapping[str, Any]) -> None:
    """Let `store.json` say the present layout."""
    _, etag = store.get_with_etag(layout.STORE)
    wanted = canonical_json({**record, "layout_version": layout.LAYOUT_VERSION})
    try:
        store.replace_if_match(layout.STORE, wanted, etag)
    except Conflict:
        raise ConfigurationError(f"{layout.STORE} in {store.url} changed meanwhile; migrate again") from None
