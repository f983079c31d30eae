"""moto's S3 server with a count of requests by what they ask for, and of the time spent answering."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager

from tests.helpers.honest_s3 import MotoServer

from .child import joined_seconds

BUCKET = "benchmark"


class CountingServer:
    """A WSGI application around moto's.

    Attributes:
        requests: (method, kind of object) -> number; the kind is the first name below the store's prefix, for what
            belongs to a person with the second one that is not the person's key: "identities/stages".
    """

    def __init__(self, application, prefix: str):
        self.requests: Counter[tuple[str, str]] = Counter()
        self._application = application
        self._start = f"/{BUCKET}/{prefix}/"
        self._spans: list[tuple[float, float]] = []
        self._lock = threading.Lock()

    def __call__(self, environ, start_response):
        first = time.monotonic()
        try:
            return list(self._application(environ, start_response))
        finally:
            with self._lock:
                self._spans.append((first, time.monotonic()))
                self.requests[environ["REQUEST_METHOD"], self.kind(environ)] += 1

    def kind(self, environ) -> str:
        """What a request is about, without anybody's key."""
        path = environ["PATH_INFO"]
        if not path.startswith(self._start):
            return "list"
        names = path.removeprefix(self._start).split("/")
        return f"identities/{names[2]}" if names[0] == "identities" and len(names) > 2 else names[0]

    @property
    def busy_seconds(self) -> float:
        """Seconds in which at least one request was being answered."""
        with self._lock:
            return joined_seconds(self._spans)

    def forget(self) -> None:
        """Start counting again."""
        with self._lock:
            self.requests.clear()
            self._spans.clear()


@contextmanager
def counting_server(prefix: str):
    """What counts, a client and the environment of a server with its bucket, for as long as the block lasts."""
    import boto3

    server = MotoServer(lambda application: CountingServer(application, prefix))
    try:
        client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=BUCKET)
        yield server.application, client, server.environment()
    finally:
        server.close()
