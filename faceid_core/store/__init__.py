"""Where everything a run makes is kept: named objects, stage keys, the stage cache, the identity secret.

`objects` says what a store is, `folder` and `s3` are the two that exist, `open` opens one by its address, `layout` names
what stands where;
`keys` says when two pieces of work are the same, `cache` keeps results, `manifest` is the record of one;
`secret` turns identity ids into opaque keys, `lease` keeps two runs apart.
`docs/design/store.md` explains the choices.
"""

from __future__ import annotations

from .cache import IdentityErased, Output, StageCache, erased_people, is_erased
from .folder import FolderStore
from .keys import StageCall, canonical_json, sha256_hex
from .layout import initialize
from .lease import RunLease, StoreBusy, Wait
from .manifest import Manifest, OutputRef
from .objects import ObjectInfo, ObjectStore
from .open import open_store
from .s3_settings import S3Settings
from .secret import IdentitySecret

__all__ = [
    "FolderStore",
    "IdentityErased",
    "IdentitySecret",
    "Manifest",
    "ObjectInfo",
    "ObjectStore",
    "Output",
    "OutputRef",
    "RunLease",
    "S3Settings",
    "StageCache",
    "StageCall",
    "StoreBusy",
    "Wait",
    "canonical_json",
    "erased_people",
    "initialize",
    "is_erased",
    "open_store",
    "sha256_hex",
]
