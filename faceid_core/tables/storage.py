"""How the Delta library reaches the storage of a store: the same place, by the same credentials, as the store itself."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from data_contracts import Contract

from ..errors import ConfigurationError
from ..store.folder import folder_of
from ..store.objects import ObjectStore
from ..store.open import is_s3

if TYPE_CHECKING:
    from ..store.s3 import S3Store

_COLOR = re.compile("\x1b\\[[0-9;]*m")


def folder_name(agreed: Contract) -> str:
    """The table's folder in the store; a new major version is another table."""
    return f"tables/{agreed.name}/v{agreed.major}"


def store_of_tables(store: ObjectStore) -> ObjectStore | None:
    """The store below which the tables of a store lie: itself, or for an address of earlier days its decoded twin.

    Returns:
        None where no table can have been written.
    """
    if is_s3(store) and store.address.fault_for_tables is not None:
        return store.twin
    return store


def table_address(store: ObjectStore, folder: str) -> str:
    """A table's address as the Delta library reads it, for the same place as the store's own keys."""
    return f"{store.address.encoded}/{folder}" if is_s3(store) else str(folder_of(store.url) / folder)


def in_one_line(error: Exception | str) -> str:
    """An error of delta-rs in one line; it draws over several lines and in color."""
    return " ".join(_COLOR.sub("", str(error)).split())


def storage_options(store: S3Store) -> dict[str, str]:
    """What the Delta library needs to reach a bucket exactly as the store's own client does, by the same credentials.

    Ask before each use, so that credentials which expire are fresh.

    Raises:
        StoreError: the store does not answer.
        ConfigurationError: an environment variable would mix other credentials in.
    """
    reached, settings = store.reached(), store.settings
    options = {
        # Commits by conditional put: no lock table beside the bucket.
        "conditional_put": "etag",
        "aws_region": reached.region,
        "aws_virtual_hosted_style_request": str(not reached.by_path).lower(),
        "aws_endpoint": reached.endpoint,
        # The library prefers the variable AWS_ENDPOINT_URL_S3 to its own option, unless it is told this one too.
        "aws_endpoint_url_s3": reached.endpoint,
        "allow_http": str(reached.endpoint.startswith("http://")).lower(),
        "timeout": f"{settings.timeout_seconds:g}s",
    }
    if reached.access_key:
        options |= {"aws_access_key_id": reached.access_key, "aws_secret_access_key": reached.secret_key}
    if reached.token:
        options["aws_session_token"] = reached.token
    elif os.environ.get("AWS_SESSION_TOKEN"):
        raise ConfigurationError(
            "AWS_SESSION_TOKEN is set, but the credentials in force come from elsewhere and have no token: the tables' "
            "library would send both; unset it, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY with it"
        )
    if settings.kms_key:
        options |= {"aws_server_side_encryption": "aws:kms", "aws_sse_kms_key_id": settings.kms_key}
    return options
