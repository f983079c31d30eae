"""The identity secret: what turns an identity's id into the opaque key that paths, logs and the UI show."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigurationError
from ..private import config_folder, make_once, read_private
from .folder import folder_of

VARIABLE = "FACEID_IDENTITY_SECRET"
FILE_VARIABLE = "FACEID_IDENTITY_SECRET_FILE"
_BYTES = 32
# Labels keep the two uses apart: no identity id can ever produce the fingerprint.
_IDENTITY_LABEL = b"faceid identity key 1\x00"
_FINGERPRINT_LABEL = b"faceid identity secret fingerprint 1\x00"
_HEX_DIGITS = 32
_KEY = re.compile(rf"[0-9a-f]{{{_HEX_DIGITS}}}")


def is_identity_key(text) -> bool:
    """Whether this has the form of an identity's key."""
    return isinstance(text, str) and _KEY.fullmatch(text) is not None


@dataclass(frozen=True)
class IdentitySecret:
    """32 secret bytes; printing one shows where it came from, never what it is."""

    value: bytes = field(repr=False)
    source: str = "given"

    def __post_init__(self):
        if len(self.value) != _BYTES:
            raise ConfigurationError(
                f"the identity secret from {self.source} has {len(self.value)} bytes, not {_BYTES}"
            )

    @classmethod
    def load(cls, store_url: str, *, make: bool = True, shared: bool = False) -> IdentitySecret:
        """The secret of this environment; for a new store of this machine alone a file is made where there is none.

        Args:
            store_url: the store's address; a secret inside the store that it protects is refused.
            make: False for a store that exists: a new secret would give its people other keys.
            shared: other machines use the store as well, which one on s3:// always implies. It is given no secret
                unasked: one that only this machine's home folder holds is lost with the machine, and the store with it.

        Returns:
            The secret from FACEID_IDENTITY_SECRET (hex or base64), or else from the file that
            FACEID_IDENTITY_SECRET_FILE names, or else from `faceid/identity-secret` in ~/.config.

        Raises:
            ConfigurationError: if it cannot be read, if others can read its file, if it lies in the store, or
                if there is none and none may be made.
        """
        text = os.environ.get(VARIABLE, "").strip()
        if text:
            return cls(_decode(text, VARIABLE), VARIABLE)
        path = secret_file()
        if not store_url.startswith("s3://"):
            root = folder_of(store_url)
            if path.resolve().is_relative_to(root):
                raise ConfigurationError(
                    f"the identity secret {path} lies inside the store {root}; "
                    f"set {FILE_VARIABLE} to a file outside"
                )
        if not path.exists():
            if not make:
                raise ConfigurationError(
                    f"there is no identity secret here: {VARIABLE} is not set and {path} does not exist; bring "
                    f"the secret that {store_url} was made with, in {VARIABLE} or the file that {FILE_VARIABLE} names"
                )
            if shared or store_url.startswith("s3://"):
                raise ConfigurationError(
                    f"there is no identity secret here: {VARIABLE} is not set and {path} does not exist. {store_url} "
                    "would be a new store that other machines share, and without the secret that it is made with it "
                    f"can never be used again. Set {VARIABLE} to the secret that you keep for it, or make one with: "
                    "faceid secret init"
                )
            _create(path)
        return cls(_read(path), str(path))

    @classmethod
    def make(cls) -> IdentitySecret:
        """Make a secret in this environment's file.

        Returns:
            The new secret; its `source` is the file.

        Raises:
            ConfigurationError: if there is one already, in the variable or the file, or the file cannot be made.
        """
        if text := os.environ.get(VARIABLE, "").strip():
            there = cls(_decode(text, VARIABLE), VARIABLE)
        else:
            path = secret_file()
            if _create(path):
                return cls(_read(path), str(path))
            there = cls(_read(path), str(path))
        raise ConfigurationError(
            f"there is an identity secret already: {there.source} (fingerprint {there.fingerprint}); nothing was "
            "changed. Keep it: the stores that were made with it need it"
        )

    def identity_key(self, identity_id: str) -> str:
        """The opaque key of an identity: 32 hex digits that say nothing without the secret."""
        return self._mac(_IDENTITY_LABEL + identity_id.encode())

    @property
    def fingerprint(self) -> str:
        """What a store keeps to recognize its secret by: 32 hex digits."""
        return self._mac(_FINGERPRINT_LABEL)

    def _mac(self, message: bytes) -> str:
        return hmac.new(self.value, message, hashlib.sha256).hexdigest()[:_HEX_DIGITS]


def has_secret() -> bool:
    """Whether this environment has a secret, in the variable or in the file; it may still be unusable."""
    return bool(os.environ.get(VARIABLE, "").strip()) or secret_file().exists()


def secret_file() -> Path:
    """Where the secret's file lies when no variable holds the secret itself."""
    named = os.environ.get(FILE_VARIABLE)
    if named:
        try:
            return Path(named).expanduser()
        except RuntimeError as error:
            raise ConfigurationError(f"{FILE_VARIABLE} is {named!r}: {error}") from None
    return config_folder() / "identity-secret"


def _decode(text: str, source: str) -> bytes:
    if re.fullmatch(rf"[0-9a-fA-F]{{{2 * _BYTES}}}", text):
        return bytes.fromhex(text)
    try:
        value = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if len(value) != _BYTES:
        raise ConfigurationError(
            f"the identity secret in {source} is neither 64 hex digits nor base64 of {_BYTES} bytes; "
            "make one with: openssl rand -hex 32"
        )
    return value


def _read(path: Path) -> bytes:
    return _decode(read_private(path, what="the identity secret "), str(path))


def _create(path: Path) -> bool:
    """Write a new secret; False, and nothing changed, if there is a file already."""
    try:
        return make_once(path, secrets.token_hex(_BYTES) + "\n", what="the identity secret ")
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}; set {VARIABLE} or {FILE_VARIABLE}") from error
