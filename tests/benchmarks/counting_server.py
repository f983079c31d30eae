"""moto's S3 server with a count of requests by what they ask for, and of the time spent answering."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from contextlib import contextmanager

from .child import joined_seconds

BUCKET = "benchmark"


class CountingServer:
    """A WSGI application around moto's.

    Attributes:
        requests: (method, kind of object) -> number; the kind is the first name below the store's prefix, for what
            belongs to a person with the second one that is not the person's key: "identities/stages".
        endpoint: its address.
    """

    def __init__(self, prefix: str):
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            MotoRequestHandler,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.requests: Counter[tuple[str, str]] = Counter()
        self._start = f"/{BUCKET}/{prefix}/"
        self._spans: list[tuple[float, float]] = []
        self._lock = threading.Lock()
        self._application = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=MotoRequestHandler)
        self.endpoint = "http://{}:{}".format(*self._server.server_address[:2])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

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
        """Begin counting anew."""
        with self._lock:
            self.requests.clear()
            self._spans.clear()

    def environment(self) -> dict[str, str]:
        """By which a process reaches the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()


@contextmanager
def counting_server(prefix: str):
    """A server with its bucket, for as long as the block lasts."""
    import boto3

    server = CountingServer(prefix)
    try:
        client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=BUCKET)
        yield server, client
    finally:
        server.close()
