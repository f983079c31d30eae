"""How to reach S3: endpoint, addressing, encryption, checksums, retries, connections."""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from dataclasses import dataclass

import boto3
from botocore.config import Config


@dataclass(frozen=True)
class S3Settings:
    """How to reach S3. What is None is left to boto3: AWS_ENDPOINT_URL, AWS_REGION, AWS_PROFILE and so on.

    Attributes:
        endpoint_url: for stores other than AWS.
        region: the bucket's.
        path_style: bucket in the path, not in the host's name; None chooses it when there is an endpoint.
        kms_key: encrypts everything that is written; None leaves encryption to the bucket.
        checksums: what goes with an object for S3 to compare: "sha256", "crc32", or "none" for clones that refuse it.
        attempts: tries of a request that fails or is told to slow down.
        timeout_seconds: how long an answer may take.
        connections: kept open, at least the number of threads that use the store.
    """

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool | None = None
    kms_key: str | None = None
    checksums: str = "sha256"
    attempts: int = 5
    timeout_seconds: float = 60.0
    connections: int = 32

    def session(self) -> boto3.Session:
        """Credentials and region as boto3 finds them, and AWS_REGION, which AWS's other SDKs and containers use."""
        return boto3.Session(region_name=self.region or os.environ.get("AWS_REGION"))

    def endpoint(self) -> str | None:
        """The endpoint in force, or None for AWS itself."""
        return (
            self.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        )

    def client_config(self) -> Config:
        """What boto3's client is made with."""
        return Config(
            s3={"addressing_style": "path" if self.by_path() else "auto"},
            max_pool_connections=self.connections,
            connect_timeout=10,
            read_timeout=self.timeout_seconds,
            retries={"mode": "standard", "total_max_attempts": self.attempts},
            # Blobs are hashed on reading: that also holds where a store checks nothing.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )

    def with_every_object(self, data: bytes) -> dict[str, str]:
        """Arguments of a put that do not depend on the object's name: encryption and checksum."""
        found = {}
        if self.kms_key:
            found |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self.kms_key}
        if self.checksums == "sha256":
            found["ChecksumSHA256"] = base64.b64encode(hashlib.sha256(data).digest()).decode()
        elif self.checksums == "crc32":
            found["ChecksumCRC32"] = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
        return found

    def by_path(self) -> bool:
        """Whether the bucket's name goes into the path."""
        return self.endpoint() is not None if self.path_style is None else self.path_style
