"""The newest results of one identity in the store: its tokens and its aligned photo."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from faceid_core.config import NightlyConfig, store_options
from faceid_core.errors import ConfigurationError
from faceid_core.identity import validate_identity_id
from faceid_core.run.store_access import open_with_secret
from faceid_core.stages.files import read_png
from faceid_core.store import StageCache
from faceid_core.store.layout import identity_scope
from faceid_core.weights.resolve import resolve_all


def newest_tokens(config: NightlyConfig, identity_id: str) -> bytes:
    """The safetensors file of an identity's newest tokens for the configured base model.

    Raises:
        ConfigurationError: the id may not be one, or the store holds no such tokens.
        DamagedInput: the file is gone from the store, or not what was put there.
    """
    base = resolve_all(config).digests["base"]
    found = _newest(
        config, identity_id, "personalize", "tokens.safetensors", lambda weights: weights.get("base") == base
    )
    if found is None:
        raise ConfigurationError(
            f"{config.store} holds no tokens of {identity_id!r} for base model {config.base_model.source!r}; "
            f"learn them first: faceid run {store_options(config)} --only {identity_id}"
        )
    return found


def newest_crop(config: NightlyConfig, identity_id: str) -> np.ndarray:
    """A person's aligned photo of the last run, uint8 [side, side, 3], with which pictures are compared.

    Raises:
        ConfigurationError, DamagedInput: as `newest_tokens`.
    """
    found = _newest(config, identity_id, "detect", "crop.png", lambda _weights: True)
    if found is None:
        raise ConfigurationError(
            f"{config.store} holds no photo of {identity_id!r}; run the person again: "
            f"faceid run {store_options(config)} --only {identity_id}"
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
