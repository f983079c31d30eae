"""A store in an S3 bucket, or in anything that speaks S3's conditional writes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import urlsplit

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.parsers import ResponseParserError

from ..errors import ConfigurationError, Conflict, ObjectMissing, StoreError, StoreRefused
from .objects import ObjectInfo, validate_name, validate_prefix
from .s3_address import S3Address
from .s3_advice import NO_S3, Advice, advise, code_of, is_page
from .s3_patience import Patience
from .s3_settings import S3Settings, is_aws

__all__ = ["S3Settings", "S3Store"]

_MISSING = {"NoSuchKey", "404", "NotFound"}
_LOST = {"PreconditionFailed", "412"}
_BUSY = {"ConditionalRequestConflict", "OperationAborted", "409"}
_DENIED = ("AccessDenied", "403")
_MEDIA_TYPES = {
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".parquet": "application/vnd.apache.parquet",
}
_PURGE_ADVICE = (
    "allow ListBucketVersions and DeleteObjectVersion on the bucket and prefix, and lift object locks"
)
_SWEEP_ADVICE = "allow ListBucketMultipartUploads and ListMultipartUploadParts on the bucket and prefix"
_ATTEMPTS = 6
_PIECE_BYTES = 1024 * 1024
_FIRST_PAUSE_SECONDS = 0.05
_ERRORS = (ClientError, BotoCoreError, ResponseParserError, S3UploadFailedError)


@dataclass(frozen=True)
class Reached:
    """How boto3 reached the bucket last, for a library that has to do the same.

    Attributes:
        endpoint: with the bucket in the host's name unless `by_path`.
        region: that the request was signed for.
        by_path: the bucket is the first part of the path.
        access_key, secret_key, token: the credentials in force; empty where there are none.
    """

    endpoint: str
    region: str
    by_path: bool
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


class S3Store:
    """Objects under one prefix of a bucket; `IfNoneMatch` and `IfMatch` make the two conditional writes."""

    def __init__(self, url: str, settings: S3Settings | None = None):
        """Point at a bucket and prefix; nothing is asked of the network yet.

        Args:
            url: `s3://bucket/prefix`; the prefix may be empty.
            settings: None for what the environment says.

        Raises:
            ConfigurationError: if the address or the settings cannot be used.
        """
        self.settings = settings or S3Settings()
        self.address = S3Address.parse(url)
        self.bucket, self.prefix, self.url = self.address.bucket, self.address.prefix, self.address.url
        self._last: tuple[str, str] | None = None  # address and region of the last request
        try:
            self._session = self.settings.session()
            self._client = self.settings.client(self._session)
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(
                f"cannot set up S3 for {self.url}: {error}; {advise(error).text}"
            ) from error
        events = self._client.meta.events
        events.register_first("needs-retry.s3", Patience(self.url))
        events.register("before-sign.s3", self._note_request)
        events.register("before-parse.s3.HeadBucket", _end_redirects)

    @cached_property
    def twin(self) -> S3Store | None:
        """For an address of earlier days the store below which its tables lie; None where there can be none."""
        address = self.address.of_tables()
        return None if address is None else S3Store(address.url, self.settings)

    @property
    def on_aws(self) -> bool:
        """Whether the endpoint in force is AWS's own."""
        return is_aws(self._client.meta.endpoint_url)

    def reached(self) -> Reached:
        """How boto3 reaches the bucket, with fresh credentials; asks the store something if nothing was asked yet.

        Raises:
            StoreError: nothing was asked yet, and the store does not answer.
        """
        if self._last is None:
            any(self.list("store.json"))
        assert self._last is not None, "the listing's request was noted"
        url, region = self._last
        parts = urlsplit(url)
        by_path = not (parts.hostname or "").lower().startswith(f"{self.bucket.lower()}.")
        base = urlsplit(self._client.meta.endpoint_url).path.rstrip("/")
        found = self._session.get_credentials()
        keys = found.get_frozen_credentials() if found else None
        return Reached(
            f"{parts.scheme}://{parts.netloc}{base}",
            region,
            by_path,
            (keys and keys.access_key) or "",
            (keys and keys.secret_key) or "",
            (keys and keys.token) or "",
        )

    def get(self, name: str) -> bytes:
        return self.get_with_etag(name)[0]

    def get_with_etag(self, name: str) -> tuple[bytes, str]:
        key = self._key(name)

        def read() -> tuple[Mapping, bytes]:
            answer = self._client.get_object(Bucket=self.bucket, Key=key)
            return answer, answer["Body"].read()

        with self._explained("read", name):
            try:
                answer, data = self._persist(read, ())
            except ClientError as error:
                if code_of(error) in _MISSING and not is_page(error.response):
                    raise ObjectMissing(f"{name} is not in {self.url}") from None
                raise
        if is_page(answer) and not name.endswith(".html") and _begins_as_html(data):
            raise self._no_s3("read", name, "it is a web page")
        return data, self._field(answer, "ETag", "read", name)

    def read_from(self, name: str, start: int, etag: str) -> Iterator[bytes]:
        """The pieces of an object from a byte on, as long as it still has `etag`: for files too large for memory.

        Raises:
            StoreError: it is gone, changed, or its body broke off.
        """
        with self._explained("read", name):
            answer = self._client.get_object(
                Bucket=self.bucket, Key=self._key(name), Range=f"bytes={start}-", IfMatch=etag
            )
            if answer.get("ETag") != etag:
                raise self._no_s3(
                    "read", name, f"it has ETag {answer.get('ETag')} where {etag} was asked for"
                )
            yield from answer["Body"].iter_chunks(_PIECE_BYTES)

    def put_file(self, name: str, path: str) -> None:
        """Write a file as an object, in parts where it is large; what stands there is replaced."""
        encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self.settings.kms_key}
        extra = encryption if self.settings.kms_key else None
        with self._explained("write", name):
            self._client.upload_file(path, self.bucket, self._key(name), ExtraArgs=extra)
        written, size = self.head(name), os.path.getsize(path)
        if written is None or written.size != size:
            raise self._no_s3("write", name, f"{written.size if written else 'no'} bytes of {size} arrived")

    def head(self, name: str) -> ObjectInfo | None:
        with self._explained("look up", name):
            try:
                answer = self._client.head_object(Bucket=self.bucket, Key=self._key(name))
            except ClientError as error:
                if code_of(error) in _MISSING:
                    return None
                raise
        size, etag, modified = (
            self._field(answer, each, "look up", name) for each in ("ContentLength", "ETag", "LastModified")
        )
        return ObjectInfo(name, size, etag, modified.timestamp())

    def put_if_absent(self, name: str, data: bytes) -> bool:
        with self._explained("write", name):
            try:
                answer = self._put(name, data, IfNoneMatch="*")
            except ClientError as error:
                if code_of(error) in _LOST:
                    return False
                raise
        return bool(self._field(answer, "ETag", "write", name))

    def replace_if_match(self, name: str, data: bytes, etag: str | None) -> str:
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        with self._explained("replace", name):
            try:
                return self._field(self._put(name, data, **condition), "ETag", "replace", name)
            except ClientError as error:
                if code_of(error) not in _LOST | _MISSING:
                    raise
        # A request answered too late is sent again and then loses to itself: what stands there is ours.
        try:
            current, current_etag = self.get_with_etag(name)
        except ObjectMissing:
            current, current_etag = None, ""
        if current == data:
            return current_etag
        raise Conflict(f"{name} in {self.url} changed since it was read; read it and decide again")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        validate_prefix(prefix)
        start, shown = self.address.start, prefix or "everything"
        with self._explained("list", shown):
            for page in self._pages("list_objects_v2", start + prefix, "list", shown):
                for row in page.get("Contents", ()):
                    name = row["Key"][len(start) :]
                    yield ObjectInfo(name, row["Size"], row["ETag"], row["LastModified"].timestamp())

    def links(self, prefix: str = "") -> Sequence[str]:
        return ()

    def delete(self, name: str) -> None:
        with self._explained("delete", name):
            try:
                answer = self._client.delete_object(Bucket=self.bucket, Key=self._key(name))
            except ClientError as error:
                if code_of(error) not in _MISSING:
                    raise
                return
        if is_page(answer) and answer["ResponseMetadata"]["HTTPStatusCode"] != 204:
            raise self._no_s3("delete", name, "it is a web page")

    def download(self, name: str, path: str) -> None:
        """Write an object to a file, in parts where it is large.

        Raises:
            StoreError: it cannot be read, or changed meanwhile.
        """
        with self._explained("read", name):
            self._client.download_file(self.bucket, self._key(name), path)

    def purge(self, prefix: str) -> int:
        validate_prefix(prefix)
        return self._purge(prefix, lambda row: True)

    def purge_old_versions(self, prefix: str) -> int:
        validate_prefix(prefix)
        return self._purge(prefix, lambda row: not row["IsLatest"] or "Size" not in row)

    def sweep_unfinished(self, age: float, *, delete: bool) -> tuple[int, int]:
        count, size, now, what = 0, 0, time.time(), ("sweep unfinished uploads of", "the bucket")
        with self._explained(*what, denied=_SWEEP_ADVICE):
            pages = self._pages("list_multipart_uploads", self.address.start, *what)
            for row in [row for page in pages for row in page.get("Uploads", ())]:
                if now - row["Initiated"].timestamp() <= age:
                    continue
                which = {"Bucket": self.bucket, "Key": row["Key"], "UploadId": row["UploadId"]}
                parts = self._client.list_parts(**which).get("Parts", ())
                count, size = count + 1, size + sum(part["Size"] for part in parts)
                if delete:
                    self._client.abort_multipart_upload(**which)
        return count, size

    def _purge(self, prefix: str, wanted: Callable[[dict], bool]) -> int:
        """Remove versions and delete markers, a thousand in a request."""
        start, found = self.address.start, 0
        what = ("remove all versions of", prefix or "everything")
        with self._explained(*what, denied=_PURGE_ADVICE):
            for page in self._pages("list_object_versions", start + prefix, *what):
                rows = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
                keys = [{"Key": row["Key"], "VersionId": row["VersionId"]} for row in rows if wanted(row)]
                if not keys:
                    continue
                answer = self._client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": keys, "Quiet": True}
                )
                if is_page(answer):
                    raise self._no_s3(*what, "it is a web page")
                for refusal in answer.get("Errors", ()):
                    name = refusal.get("Key", prefix)[len(start) :]
                    reason = f"{refusal.get('Code')}: {refusal.get('Message')}"
                    raise StoreError(
                        f"cannot remove all versions of {name} in {self.url}: {reason}; {_PURGE_ADVICE}"
                    )
                found += len(keys)
        return found

    def _pages(self, method: str, prefix: str, verb: str, name: str) -> Iterator[dict]:
        """The pages of a listing, each of which must be one."""
        for page in self._client.get_paginator(method).paginate(Bucket=self.bucket, Prefix=prefix):
            if is_page(page) or not {"IsTruncated", "Name", "Bucket"} & set(page):
                raise self._no_s3(verb, name, "it is no listing")
            yield page

    def _note_request(self, request, region_name: str, **_) -> None:
        signing = request.context.get("signing") or {}
        self._last = request.url, signing.get("region") or region_name

    def _key(self, name: str) -> str:
        validate_name(name)
        return self.address.start + name

    def _put(self, name: str, data: bytes, **condition: str) -> dict:
        suffix = os.path.splitext(name)[1].lower()
        return self._persist(
            lambda: self._client.put_object(
                Bucket=self.bucket,
                Key=self._key(name),
                Body=data,
                ContentType=_MEDIA_TYPES.get(suffix, "application/octet-stream"),
                **self.settings.with_every_object(data),
                **condition,
            ),
            _BUSY,
        )

    def _persist(self, request: Callable, again: set[str] | tuple):
        """Send a request, and again after a pause when S3 says two writers met or a body broke off."""
        pause = _FIRST_PAUSE_SECONDS
        for _ in range(_ATTEMPTS - 1):
            try:
                return request()
            except ClientError as error:
                if code_of(error) not in again:
                    raise
            except (HTTPClientError, IncompleteReadError):
                pass
            time.sleep(pause)
            pause *= 2
        return request()

    @contextmanager
    def _explained(self, verb: str, name: str, *, denied: str = "") -> Generator[None]:
        """Turn boto3's errors into the store's: what could not be done to which object, why, and what to change."""
        try:
            yield
        except _ERRORS as error:
            raise self._failed(verb, name, error, denied) from error

    def _failed(self, verb: str, name: str, error: Exception, denied: str) -> StoreError:
        if isinstance(error, S3UploadFailedError) and isinstance(error.__context__, ClientError):
            error = error.__context__
        if isinstance(error, ClientError) and error.operation_name == "HeadObject":
            error = self._ask_for_the_reason(name, error)
        advice = advise(error)
        if denied and isinstance(error, ClientError) and code_of(error) in _DENIED:
            advice = Advice(denied)
        text = f"cannot {verb} {name} in {self.url}: {error}; {advice.text}"
        return StoreRefused(text, advice.text) if advice.refused else StoreError(text)

    def _ask_for_the_reason(self, name: str, error: ClientError) -> Exception:
        """An answer to HEAD has no body, and so no reason; one to a GET of a single byte has."""
        try:
            answer = self._client.get_object(Bucket=self.bucket, Key=self._key(name), Range="bytes=0-0")
            answer["Body"].close()
        except ClientError as reason:
            return error if code_of(reason) in _MISSING | {"InvalidRange", "416"} else reason
        except (BotoCoreError, ResponseParserError):
            pass
        return error

    def _field(self, answer: Mapping, field: str, verb: str, name: str):
        """What an answer must hold."""
        if answer.get(field) in (None, ""):
            raise self._no_s3(verb, name, f"it has no {field}")
        return answer[field]

    def _no_s3(self, verb: str, name: str, fault: str) -> StoreRefused:
        endpoint = self._client.meta.endpoint_url
        return StoreRefused(
            f"cannot {verb} {name} in {self.url}: the answer of {endpoint} is none of S3's: {fault}; {NO_S3.text}",
            NO_S3.text,
        )


def _end_redirects(response_dict: dict, **_) -> None:
    """Keep boto3 from asking without end where a bucket is, of a proxy that redirects that question too."""
    if 300 <= response_dict["status_code"] < 400 and "x-amz-bucket-region" not in response_dict["headers"]:
        response_dict["status_code"] = 400


def _begins_as_html(data: bytes) -> bool:
    return data.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))
