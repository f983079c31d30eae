"""Reading a store that is there already: nothing here makes a store, or a secret, that is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from faceid_core.config import NightlyConfig
from faceid_core.errors import ConfigurationError, as_configuration
from faceid_core.identity import validate_identity_id
from faceid_core.store import ObjectStore, StageCache, open_store
from faceid_core.store.layout import check_secret, identity_scope, read_layout
from faceid_core.store.secret import IdentitySecret

if TYPE_CHECKING:
    import numpy as np


@as_configuration()
def open_existing(config: NightlyConfig) -> ObjectStore:
    """The configured store, if there is one.

    Raises:
        ConfigurationError: there is no store at that address, one of another layout, or one that refuses us.
        StoreError: its own record cannot be read.
    """
    store = open_store(config.store, config.s3.settings())
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
    from faceid_core.weights.resolve import resolve_all

    base = resolve_all(config).digests["base"]
    found = _newest(
        config, identity_id, "personalize", "tokens.safetensors", lambda weights: weights.get("base") == base
    )
    if found is None:
        raise ConfigurationError(
            f"{config.store} holds no tokens of {identity_id!r} for base model {config.base_model.source!r}; "
            f"learn them first: faceid run --store {config.store} --only {identity_id}"
        )
    return found


def newest_crop(config: NightlyConfig, identity_id: str) -> np.ndarray:
    """A person's aligned photo of the last run, uint8 [side, side, 3], with which pictures are compared.

    Raises:
        ConfigurationError, DamagedInput: as `newest_tokens`.
    """
    from faceid_core.stages.files import read_png

    found = _newest(config, identity_id, "detect", "crop.png", lambda _weights: True)
    if found is None:
        raise ConfigurationError(
            f"{config.store} holds no photo of {identity_id!r}; run the person again: "
            f"faceid run --store {config.store} --only {identity_id}"
        )
    return read_png(found)


def _newest(
    config: NightlyConfig, identity_id: str, stage: str, output: str, fits: Callable[[Mapping], bool]
) -> bytes | None:
    """An output of the newest result of a person's stage whose weights fit, or None if there is none."""
    store, secret = open_with_secret(config)
    cache = StageCache(store, identity_scope(secret.identity_key(validate_identity_id(identity_id))))
    fitting = [
        manifest
        for manifest in cache.manifests(stage)
        if output in manifest.outputs and fits(manifest.content["preimage"]["weights"])
    ]
    if not fitting:
        return None
    return cache.read(max(fitting, key=lambda each: each.provenance.get("finished_at", "")), output)
