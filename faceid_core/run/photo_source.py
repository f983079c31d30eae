"""Reads photos from where the manifest says that they lie: a file, or an object in S3."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from threading import Lock

from faceid_core import photos
from faceid_core.errors import ConfigurationError, PhotoRejected, StoreError, StoreRefused
from faceid_core.identity import Identity, check_digest, read_photo
from faceid_core.missing_path import composed_otherwise, slip_of_writing
from faceid_core.store import ObjectStore, S3Settings, open_store
from faceid_core.store.objects import validate_name


@dataclass
class PhotoSource:
    """Reads photos by local path or s3:// address; one connection for each S3 folder."""

    s3: S3Settings
    max_bytes: int
    _folders: dict[str, ObjectStore] = field(default_factory=dict)
    _opening: Lock = field(default_factory=Lock, repr=False)

    def read(self, identity: Identity) -> bytes:
        """The photo's bytes.

        Raises:
            PhotoRejected: missing, at no address, too large, or not the photo that the manifest's sha256 names.
            StoreError: where the photo lies cannot be read just now, which is no fault of the photo's.
                Either sentence names the manifest's line, never the address, which may be an id.
        """
        if not identity.photo.startswith("s3://"):
            return read_photo(identity, max_bytes=self.max_bytes)
        folder, _, name = identity.photo.rpartition("/")
        line = identity.line
        where = "the given address" if line is None else f"the address in line {line} of the manifest"
        try:
            store = self._open(folder)
            # What cannot be a name is a slip of the manifest's, not trouble of the store's.
            info = store.head(name) if _is_name(name) else None
            if info is None:
                raise PhotoRejected(
                    "photo_missing",
                    f"There is no object at {where}{_why_missing(store, name)}. Correct it or upload the photo; "
                    "faceid plan names the address.",
                    looked_for=identity.photo,
                )
            if info.size > self.max_bytes:
                raise photos.too_many_bytes(info.size, self.max_bytes)
            return check_digest(identity, store.get(name))
        except ConfigurationError as error:
            sentence = f"The photo cannot be read: {where} is no address that a run reads. Correct it."
            raise PhotoRejected("photo_unreadable", sentence) from error
        except StoreRefused as error:
            text = f"The photo at {where} cannot be read: {error.advice}."
            raise StoreRefused(text, error.advice) from error
        except StoreError as error:
            raise StoreError(
                f"The photo at {where} cannot be read ({type(error).__name__}). Check that the run may read there, and "
                "run again."
            ) from error

    def _open(self, folder: str) -> ObjectStore:
        # A client takes a tenth of a second and holds its own connections: many threads share one.
        with self._opening:
            if folder not in self._folders:
                self._folders[folder] = open_store(folder, self.s3)
            return self._folders[folder]


def _why_missing(store: ObjectStore, name: str) -> str:
    """What may be wrong with the name of an object that is not there, as the rest of a sentence."""
    slip = slip_of_writing(name)
    if slip:
        return f": {slip}"
    if any(store.head(twin) for twin in composed_otherwise(name) if _is_name(twin)):
        return ": it is there with its accents encoded differently (Unicode NFC and NFD)"
    return ""


def _is_name(name: str) -> bool:
    try:
        validate_name(name)
    except StoreError:
        return False
    return True


def mask_of(identity: Identity) -> Identity:
    """The identity whose photo is the mask: it is read as photos are."""
    return replace(identity, photo=identity.subject_mask, sha256=None)
