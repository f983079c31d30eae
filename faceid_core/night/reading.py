"""Reading a store that is there already: nothing here makes a store, or a secret, that is not."""

from __future__ import annotations

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError
from faceid_core.identity import validate_identity_id
from faceid_core.stages.models import open_configured_store
from faceid_core.store import ObjectStore, StageCache
from faceid_core.store.layout import check_secret, identity_scope, read_layout
from faceid_core.store.secret import IdentitySecret


def open_existing(config: NightlyConfig) -> ObjectStore:
    """The configured store, if there is one.

    Raises:
        ConfigurationError: there is no store at that address, or one of another layout.
        StoreError: its own record cannot be read.
    """
    store = open_configured_store(config.store, config.s3.model_dump())
    read_layout(store)
    return store


def open_with_secret(config: NightlyConfig) -> tuple[ObjectStore, IdentitySecret]:
    """The configured store and the secret that it was made with, for whoever looks people up.

    Raises:
        ConfigurationError: there is no store, or no secret in this environment.
        SecretMismatch: the secret is another than the store's.
    """
    store = open_existing(config)
    secret = IdentitySecret.load(config.store, make=False)
    check_secret(store, read_layout(store), secret)
    return store, secret


def newest_tokens(config: NightlyConfig, identity_id: str) -> bytes:
    """The safetensors file of the tokens that a person learned last on the configured base model.

    Raises:
        ConfigurationError: the id may not be one, or the store holds no such tokens.
        DamagedInput: the file is gone from the store, or not what was put there.
    """
    from faceid_core.stages.weights import find_weights

    store, secret = open_with_secret(config)
    cache = StageCache(store, identity_scope(secret.identity_key(validate_identity_id(identity_id))))
    base = find_weights(config).digests["base"]
    learned = [
        manifest
        for manifest in cache.manifests("personalise")
        if manifest.content["preimage"]["weights"].get("base") == base
    ]
    if not learned:
        raise ConfigurationError(
            f"{config.store} holds no tokens of {identity_id!r} for base model {config.base_model.source!r}; "
            f"learn them first: faceid run --store {config.store} --only {identity_id}"
        )
    newest = max(learned, key=lambda manifest: manifest.provenance.get("finished_at", ""))
    return cache.read(newest, "tokens.safetensors")
