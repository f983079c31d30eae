"""Opening the configured store with its secret: for a run, which may create it, and for commands that only read."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from faceid_core.config import NightlyConfig, cluster_address
from faceid_core.errors import ConfigurationError, as_configuration
from faceid_core.store import ObjectStore, initialize, open_store
from faceid_core.store.layout import check_secret, exists, read_layout
from faceid_core.store.s3_address import refuse_unfit_for_tables
from faceid_core.store.secret import IdentitySecret


@as_configuration()
def open_or_create(
    config: NightlyConfig, *, read_only: bool = False, report: Callable[[str], None] | None = None
) -> tuple[ObjectStore, IdentitySecret]:
    """Open the store for a run and check that it belongs to this secret; one that does not exist is created.

    Args:
        config: the parsed configuration.
        read_only: create neither store nor secret.
        report: called with a line that says to which secret a new shared store is bound.

    Raises:
        ConfigurationError: the store exists, and its secret is not here; or it would be new and shared, and there is
            no secret; it refuses us; its tables would lie elsewhere.
        SecretMismatch: the store was made with another secret.
    """
    store = open_store(config.store, config.s3.settings())
    refuse_unfit_for_tables(store)
    there = exists(store)
    if read_only:
        return store, _secret_for_reading(config, store, there)
    shared = is_shared(config)
    secret = IdentitySecret.load(config.store, make=not there, shared=shared)
    initialize(store, secret)
    _probe_tables(store)
    if shared and not there and report is not None:
        report(
            f"{config.store} is new and belongs to the identity secret from {secret.source} (fingerprint "
            f"{secret.fingerprint}); keep a copy of it, without which the store cannot be used"
        )
    return store, secret


def is_shared(config: NightlyConfig) -> bool:
    """Whether other machines use the store as well: one on S3, or one that the nodes of a running Ray cluster reach."""
    joins = config.execution.executor == "ray" and any(cluster_address(config.execution.ray_address))
    return config.store.startswith("s3://") or joins


def _probe_tables(store: ObjectStore) -> None:
    """Check before the work that the tables' own S3 library writes to the same place."""
    if hasattr(store, "address"):
        from faceid_core.tables.write import DeltaPlace  # loads deltalake

        DeltaPlace(store).probe("runs")


def _secret_for_reading(config: NightlyConfig, store: ObjectStore, there: bool) -> IdentitySecret:
    if there:
        secret = IdentitySecret.load(config.store, make=False)
        check_secret(store, read_layout(store), secret)
        return secret
    try:
        return IdentitySecret.load(config.store, make=False)
    except ConfigurationError:
        # A store that does not exist holds no results: any keys will do, and no secret may be left behind.
        return IdentitySecret(secrets.token_bytes(32), "nothing but this dry run")


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
    """The configured store and the secret that it was made with, to turn ids into keys.

    Raises:
        ConfigurationError: there is no store, or no secret in this environment.
        SecretMismatch: the secret is another than the store's.
    """
    store = open_existing(config)
    secret = IdentitySecret.load(config.store, make=False)
    check_secret(store, read_layout(store), secret)
    return store, secret
