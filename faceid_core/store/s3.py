"""A store in an S3 bucket, or in anything that speaks S3's conditional writes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError

from ..errors import ConfigurationError, Conflict, ObjectMissing, StoreError
from .objects import ObjectInfo, validate_name, validate_prefix
from .s3_settings import S3Settings

__all__ = ["S3Settings", "S3Store"]

_MISSING = {"NoSuchKey", "404", "NotFound"}
_LOST = {"PreconditionFailed", "412"}
_BUSY = {"ConditionalRequestConflict", "OperationAborted", "409"}
_MEDIA_TYPES = {
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".parquet": "application/vnd.apache.parquet",
}
# What to do about the refusals that people meet.
_ADVICE = {
    "NoSuchBucket": "create the bucket or correct the store's address",
    "AccessDenied": "allow GetObject, PutObject, DeleteObject and ListBucket on the bucket and prefix",
    "403": "allow GetObject, PutObject, DeleteObject and ListBucket on the bucket and prefix",
    "InvalidAccessKeyId": "check the credentials in the environment or the profile",
    "SignatureDoesNotMatch": "check the credentials in the environment or the profile",
    "ExpiredToken": "renew the credentials",
    "PermanentRedirect": "set the bucket's region",
    "SlowDown": "lower the number of workers or try again later",
}
_PURGE_ADVICE = (
    "allow ListBucketVersions and DeleteObjectVersion on the bucket and prefix, and lift object locks"
)
_SWEEP_ADVICE = "allow ListBucketMultipartUploads and ListMultipartUploadParts on the bucket and prefix"
_ATTEMPTS = 6
_PIECE_BYTES = 1024 * 1024
_FIRST_PAUSE_SECONDS = 0.05


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
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
            raise ConfigurationError(f"{url} is not an S3 address; give s3://bucket/prefix")
        self.settings = settings or S3Settings()
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        self.url = f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"
        try:
            self._client = self.settings.session().client(
                "s3",
                endpoint_url=self.settings.endpoint(),
                config=self.settings.client_config(),
            )
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(f"cannot set up S3 for {self.url}: {error}") from error

    def get(self, name: str) -> bytes:
        return self.get_with_etag(name)[0]

    def get_with_etag(self, name: str) -> tuple[bytes, str]:
        key = self._key(name)

        def read() -> tuple[bytes, str]:
            answer = self._client.get_object(Bucket=self.bucket, Key=key)
            return answer["Body"].read(), answer["ETag"]

        try:
            return self._persist(read, ())
        except ClientError as error:
            if _code(error) in _MISSING:
                raise ObjectMissing(f"{name} is not in {self.url}") from None
            raise self._failed("read", name, error) from error
        except BotoCoreError as error:
            raise self._failed("read", name, error) from error

    def read_from(self, name: str, start: int, etag: str) -> Iterator[bytes]:
        """The pieces of an object from a byte on, as long as it still has `etag`: for files too large for memory.

        Raises:
            StoreError: it is gone, changed, or its body broke off.
        """
        try:
            answer = self._client.get_object(
                Bucket=self.bucket, Key=self._key(name), Range=f"bytes={start}-", IfMatch=etag
            )
            yield from answer["Body"].iter_chunks(_PIECE_BYTES)
        except (ClientError, BotoCoreError) as error:
            raise self._failed("read", name, error) from error

    def put_file(self, name: str, path: str) -> None:
        """Write a file as an object, in parts where it is large; what stands there is replaced."""
        try:
            encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self.settings.kms_key}
            extra = encryption if self.settings.kms_key else None
            self._client.upload_file(path, self.bucket, self._key(name), ExtraArgs=extra)
        except (ClientError, BotoCoreError, S3UploadFailedError) as error:
            raise self._failed("write", name, error) from error

    def head(self, name: str) -> ObjectInfo | None:
        try:
            answer = self._client.head_object(Bucket=self.bucket, Key=self._key(name))
        except ClientError as error:
            if _code(error) in _MISSING:
                return None
            raise self._failed("look up", name, error) from error
        except BotoCoreError as error:
            raise self._failed("look up", name, error) from error
        return ObjectInfo(name, answer["ContentLength"], answer["ETag"], answer["LastModified"].timestamp())

    def put_if_absent(self, name: str, data: bytes) -> bool:
        try:
            self._put(name, data, IfNoneMatch="*")
        except ClientError as error:
            if _code(error) in _LOST:
                return False
            raise self._failed("write", name, error) from error
        except BotoCoreError as error:
            raise self._failed("write", name, error) from error
        return True

    def replace_if_match(self, name: str, data: bytes, etag: str | None) -> str:
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        try:
            return self._put(name, data, **condition)["ETag"]
        except ClientError as error:
            if _code(error) not in _LOST | _MISSING:
                raise self._failed("replace", name, error) from error
        except BotoCoreError as error:
            raise self._failed("replace", name, error) from error
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
        start = f"{self.prefix}/" if self.prefix else ""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=start + prefix
        )
        try:
            for page in pages:
                for row in page.get("Contents", ()):
                    name = row["Key"][len(start) :]
                    yield ObjectInfo(name, row["Size"], row["ETag"], row["LastModified"].timestamp())
        except (ClientError, BotoCoreError) as error:
            raise self._failed("list", prefix or "everything", error) from error

    def links(self, prefix: str = "") -> list[str]:
        return []

    def delete(self, name: str) -> None:
        try:
            self._client.delete_object(Bucket=self.bucket, Key=self._key(name))
        except ClientError as error:
            if _code(error) not in _MISSING:
                raise self._failed("delete", name, error) from error
        except BotoCoreError as error:
            raise self._failed("delete", name, error) from error

    def download(self, name: str, path: str) -> None:
        """Write an object to a file, in parts where it is large.

        Raises:
            StoreError: it cannot be read, or changed meanwhile.
        """
        try:
            self._client.download_file(self.bucket, self._key(name), path)
        except (ClientError, BotoCoreError) as error:
            raise self._failed("read", name, error) from error

    def purge(self, prefix: str) -> int:
        validate_prefix(prefix)
        return self._purge(prefix, lambda row: True)

    def purge_old_versions(self, prefix: str) -> int:
        validate_prefix(prefix)
        return self._purge(prefix, lambda row: not row["IsLatest"] or "Size" not in row)

    def sweep_unfinished(self, age: float, *, delete: bool) -> tuple[int, int]:
        start, count, size, now = f"{self.prefix}/" if self.prefix else "", 0, 0, time.time()
        try:
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket, Prefix=start
            )
            for row in [row for page in pages for row in page.get("Uploads", ())]:
                if now - row["Initiated"].timestamp() <= age:
                    continue
                which = {"Bucket": self.bucket, "Key": row["Key"], "UploadId": row["UploadId"]}
                parts = self._client.list_parts(**which).get("Parts", ())
                count, size = count + 1, size + sum(part["Size"] for part in parts)
                if delete:
                    self._client.abort_multipart_upload(**which)
        except (ClientError, BotoCoreError) as error:
            raise self._failed(
                "sweep unfinished uploads of", "the bucket", error, denied=_SWEEP_ADVICE
            ) from error
        return count, size

    def _purge(self, prefix: str, wanted: Callable[[dict], bool]) -> int:
        """Remove versions and delete markers, a thousand in a request."""
        start, found = f"{self.prefix}/" if self.prefix else "", 0
        try:
            pages = self._client.get_paginator("list_object_versions").paginate(
                Bucket=self.bucket, Prefix=start + prefix
            )
            for page in pages:
                rows = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
                keys = [{"Key": row["Key"], "VersionId": row["VersionId"]} for row in rows if wanted(row)]
                if not keys:
                    continue
                answer = self._client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": keys, "Quiet": True}
                )
                for refusal in answer.get("Errors", ()):
                    name = refusal.get("Key", prefix)[len(start) :]
                    told = f"{refusal.get('Code')}: {refusal.get('Message')}"
                    raise StoreError(
                        f"cannot remove all versions of {name} in {self.url}: {told}; {_PURGE_ADVICE}"
                    )
                found += len(keys)
        except (ClientError, BotoCoreError) as error:
            raise self._failed(
                "remove all versions of", prefix or "everything", error, denied=_PURGE_ADVICE
            ) from error
        return found

    def _key(self, name: str) -> str:
        validate_name(name)
        return f"{self.prefix}/{name}" if self.prefix else name

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
                if _code(error) not in again:
                    raise
            except (HTTPClientError, IncompleteReadError):
                pass
            time.sleep(pause)
            pause *= 2
        return request()

    def _failed(self, verb: str, name: str, error: Exception, *, denied: str = "") -> StoreError:
        advice = "check the endpoint, the network and the credentials"
        if isinstance(error, ClientError):
            advice = _ADVICE.get(_code(error), "see the service's message")
            if denied and _code(error) in ("AccessDenied", "403"):
                advice = denied
        return StoreError(f"cannot {verb} {name} in {self.url}: {error}; {advice}")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
