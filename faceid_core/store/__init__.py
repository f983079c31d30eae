"""Where everything a run makes is kept: named objects, stage keys, the stage cache, the identity secret.

`objects` says what a store is, `folder` and `s3` are the two that exist, `layout` names what stands where;
`keys` says when two pieces of work are the same, `cache` keeps results, `manifest` is the record of one;
`secret` turns identity ids into opaque keys, `models_lock` pins weights, `lease` keeps two runs apart.
`docs/design/store.md` explains the choices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from faceid_core.weights.lock import DamagedWeights, ModelsLock, digest_folder, write_lock

from .cache import IdentityErased, Output, StageCache, erased_people, is_erased
from .folder import FolderStore
from .keys import StageCall, canonical_json, sha256_hex
from .layout import initialize
from .lease import RunLease, StoreBusy, Wait
from .manifest import Manifest, OutputRef
from .objects import ObjectInfo, ObjectStore
from .secret import IdentitySecret

if TYPE_CHECKING:
    from .s3 import S3Settings

__all__ = [
    "DamagedWeights",
    "FolderStore",
    "IdentityErased",
    "IdentitySecret",
    "Manifest",
    "ModelsLock",
    "ObjectInfo",
    "ObjectStore",
    "Output",
    "OutputRef",
    "RunLease",
    "StageCache",
    "StageCall",
    "StoreBusy",
    "Wait",
    "canonical_json",
    "digest_folder",
    "erased_people",
    "initialize",
    "is_erased",
    "open_store",
    "sha256_hex",
    "write_lock",
]


def open_store(url: str, *, s3: S3Settings | None = None) -> ObjectStore:
    """The store at an address.

    Args:
        url: `s3://bucket/prefix`, `file:///folder`, or a folder's path.
        s3: endpoint, region and the like; only read for `s3://`.

    Returns:
        A store; a folder is made when the first object is put into it.

    Raises:
        ConfigurationError: if the address is of another kind.
    """
    if url.startswith("s3://"):
        from .s3 import S3Store  # boto3 takes a third of a second to import; a folder store does without

        return S3Store(url, s3)
    return FolderStore(url)
