"""The address of a bucket and prefix, read once: boto3 and the Delta library both take it from here."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import quote, unquote

from ..errors import ConfigurationError

SCHEME = "s3://"
# What boto3 lets pass; AWS is stricter, clones and old buckets are not.
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}", re.ASCII)
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}", re.ASCII)
# S3 allows keys of 1,024 bytes; the longest names below a store's prefix are those of the tables' files.
_MOST_PREFIX_BYTES = 760


@dataclass(frozen=True)
class S3Address:
    """A bucket and the prefix of every key.

    Attributes:
        bucket: its name.
        prefix: as it stands in the keys, character by character, without a slash at either end; may be empty.
    """

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> S3Address:
        """Read `s3://bucket/prefix`; slashes at the prefix's ends are dropped, nothing is decoded.

        Raises:
            ConfigurationError: no bucket is named, or keys cannot begin so.
        """
        bucket, _, prefix = text.removeprefix(SCHEME).partition("/")
        fault = None
        if not text.startswith(SCHEME) or not bucket:
            fault = "it names no bucket"
        elif _has_control_characters(text):
            fault = "it holds a control character, such as a line break or a tab"
        elif "#" in text or "?" in text:
            fault = "it holds # or ?, at which an address ends"
        elif not _BUCKET.fullmatch(bucket):
            fault = f"{bucket!r} cannot be a bucket's name"
        if fault:
            raise ConfigurationError(f"{text!r} is not an S3 address: {fault}; give s3://bucket/prefix")
        return cls(bucket, prefix.strip("/"))

    @property
    def url(self) -> str:
        """The address in its one spelling, which `parse` reads again."""
        return f"{SCHEME}{self.bucket}/{self.prefix}" if self.prefix else f"{SCHEME}{self.bucket}"

    @property
    def start(self) -> str:
        """What every key begins with: the prefix with a slash, or nothing."""
        return f"{self.prefix}/" if self.prefix else ""

    @property
    def encoded(self) -> str:
        """The address as a library takes it that decodes what it reads."""
        return f"{SCHEME}{self.bucket}/{quote(self.prefix)}".rstrip("/")

    @property
    def fault_for_tables(self) -> str | None:
        """Why the Delta library cannot keep tables below this prefix; None where it can."""
        parts = self.prefix.split("/") if self.prefix else []
        if _ESCAPE.search(self.prefix):
            return (
                "a percent sign with two digits, which the tables' library decodes: they would lie elsewhere"
            )
        if "" in parts:
            return "an empty part between two slashes, which the tables' library refuses"
        if "." in parts or ".." in parts:
            return "a part '.' or '..', which the tables' library resolves: they would lie elsewhere"
        if len(self.prefix.encode()) > _MOST_PREFIX_BYTES:
            return f"more than {_MOST_PREFIX_BYTES} bytes, which leaves no room for the objects' names"
        return None

    def of_tables(self) -> S3Address | None:
        """Where tables written below this prefix lie.

        Earlier versions gave the address to the Delta library as it was typed, which decodes percent signs and
        resolves dots; tables of such a store lie below the decoded prefix.

        Returns:
            This address, or the decoded one, or None where no table can have been written.
        """
        if self.fault_for_tables is None:
            return self
        parts: list[str] = []
        for part in self.prefix.split("/"):
            if part == "..":
                parts = parts[:-1]
            elif part != ".":
                parts.append(unquote(part))
        twin = S3Address(self.bucket, "/".join(parts))
        possible = twin.fault_for_tables is None and not _has_control_characters(twin.prefix)
        return twin if possible else None


def unfit_for_tables(store) -> str | None:
    """Why a run's rows would land elsewhere than the store, or nowhere, and what to do; None where they would not."""
    address: S3Address | None = getattr(store, "address", None)
    if address is None or (fault := address.fault_for_tables) is None:
        return None
    tables = address.of_tables()
    there = f" (its tables, if there are any, lie below {tables.url}/tables)" if tables else ""
    return (
        f"the prefix of {address.url} holds {fault}. Choose another prefix; a store that is there already can be read, "
        f"verified, erased from and moved{there}: docs/s3.md, 'Addresses'"
    )


def refuse_unfit_for_tables(store) -> None:
    """Refuse to start a run on such a store; raises ConfigurationError."""
    if fault := unfit_for_tables(store):
        raise ConfigurationError(f"no run can run here: {fault}")


def _has_control_characters(text: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)
