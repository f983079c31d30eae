"""How to reach S3: endpoint, addressing, encryption, checksums, retries, connections.

The settings are plain values that travel to workers; boto3, which takes a third of a second to import, is imported
only where a client is made.
"""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import boto3
    from botocore.config import Config

_AWS = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws")


@dataclass(frozen=True)
class S3Settings:
    """How to reach S3. What is None is left to boto3: AWS_ENDPOINT_URL, AWS_REGION, AWS_PROFILE, the AWS files.

    Attributes:
        endpoint_url: for stores other than AWS.
        region: the bucket's.
        path_style: bucket in the path, not in the host's name; None chooses it when the endpoint is not AWS's.
        kms_key: encrypts everything that is written; None leaves encryption to the bucket.
        checksums: what goes with an object for S3 to compare: "sha256", "crc32", or "none" for clones that refuse it.
        attempts: tries of a request that fails; one that S3 asks to slow down has more (`s3_patience`).
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
        import boto3

        return boto3.Session(region_name=self.region or os.environ.get("AWS_REGION"))

    def client(self, session: boto3.Session):
        """The client that a store uses for everything; the tables' library gets the same settings."""
        by_path = self.by_path()
        client = self._client(session, by_path)
        # Only boto3 knows whether the AWS configuration file names an endpoint.
        if self.path_style is None and not by_path and not is_aws(client.meta.endpoint_url):
            client = self._client(session, True)
        return client

    def by_path(self) -> bool:
        """Whether the bucket's name goes into the path, as far as these settings and the environment say."""
        if self.path_style is not None:
            return self.path_style
        variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        return bool(self.endpoint_url or any(os.environ.get(name) for name in variables))

    def client_config(self, by_path: bool) -> Config:
        """What boto3's client is made with."""
        from botocore.config import Config

        # "auto" takes the path for an endpoint that is an IP address; false in the configuration means false.
        style = "path" if by_path else "auto" if self.path_style is None else "virtual"
        return Config(
            s3={"addressing_style": style},
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

    def _client(self, session: boto3.Session, by_path: bool):
        return session.client("s3", endpoint_url=self.endpoint_url, config=self.client_config(by_path))


def is_aws(endpoint: str) -> bool:
    """Whether an endpoint is one of AWS's own."""
    return (urlsplit(endpoint).hostname or "").endswith(_AWS)
