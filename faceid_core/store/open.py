"""Opens the store at an address."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard, cast

from .folder import FolderStore
from .objects import ObjectStore
from .requests import CountedStore
from .s3_settings import S3Settings

if TYPE_CHECKING:
    from .s3 import S3Store


def open_store(url: str, s3: S3Settings | None = None) -> ObjectStore:
    """Open the store at an address.

    Args:
        url: `s3://bucket/prefix`, `file:///folder`, or a folder's path.
        s3: how to reach S3, as `config.s3.settings()` gives it; None takes what the environment says. Only read for
            `s3://`.

    Returns:
        A store that counts its requests; a folder is made when the first object is put into it.

    Raises:
        ConfigurationError: the address is of another kind.
    """
    if url.startswith("s3://"):
        from .s3 import S3Store  # boto3 takes a third of a second to import; a folder store does without

        return cast(ObjectStore, CountedStore(S3Store(url, s3)))
    return cast(ObjectStore, CountedStore(FolderStore(url)))


def is_s3(store: ObjectStore) -> TypeGuard[S3Store]:
    """Whether a store lies in a bucket, as its address tells: boto3 is not imported for it."""
    return store.url.startswith("s3://")


def is_folder(store: ObjectStore) -> TypeGuard[FolderStore]:
    """Whether a store lies in a folder, as its address tells."""
    return not is_s3(store)
