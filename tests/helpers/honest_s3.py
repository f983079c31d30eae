"""moto's S3 server made honest: conditional requests one at a time, and no object whose checksum is not that sent along.

By itself moto looks and writes in two steps, so that one race in some hundred has two winners, and it believes any
checksum. Real S3 does neither, and a test of races against something that does would prove nothing.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import threading
import zlib
from collections import Counter
from collections.abc import Callable

_CHECKSUMS = {
    "HTTP_X_AMZ_CHECKSUM_SHA256": lambda data: hashlib.sha256(data).digest(),
    "HTTP_X_AMZ_CHECKSUM_SHA1": lambda data: hashlib.sha1(data).digest(),
    "HTTP_X_AMZ_CHECKSUM_CRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "HTTP_CONTENT_MD5": lambda data: hashlib.md5(data).digest(),
}
_STRIPES = 64


class HonestS3:
    """A WSGI application in front of another one that speaks S3.

    Attributes:
        refused: how many requests were refused for a wrong checksum, and how many `conditional` ones took their turn.
    """

    def __init__(self, application):
        self._application = application
        # Writes of one object take turns, those of different objects need not.
        self._turns = [threading.Lock() for _ in range(_STRIPES)]
        self._counting = threading.Lock()
        self.counts: Counter[str] = Counter()

    def __call__(self, environ, start_response):
        if environ["REQUEST_METHOD"] not in ("PUT", "POST", "DELETE"):
            return self._application(environ, start_response)
        if environ["REQUEST_METHOD"] == "PUT":
            wrong = self._wrong_checksum(environ)
            if wrong:
                self._count("refused")
                return _refuse(start_response, wrong)
        if "HTTP_IF_NONE_MATCH" in environ or "HTTP_IF_MATCH" in environ:
            self._count("conditional")
        # Also those without a condition: a write or deletion in between would make another's condition untrue.
        with self._turns[zlib.crc32(environ["PATH_INFO"].encode()) % _STRIPES]:
            return list(self._application(environ, start_response))

    def _count(self, what: str) -> None:
        with self._counting:
            self.counts[what] += 1

    def _wrong_checksum(self, environ) -> str | None:
        """Read the body, put it back, and say which header it does not match."""
        data = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(data)
        if environ.get("HTTP_CONTENT_ENCODING", "").startswith("aws-chunked"):
            return None  # its checksum follows in a trailer, which the application reads
        for header, digest in _CHECKSUMS.items():
            if header in environ and environ[header] != base64.b64encode(digest(data)).decode():
                return header.removeprefix("HTTP_").replace("_", "-").lower()
        return None


def _refuse(start_response, header: str) -> list[bytes]:
    body = (
        f"<Error><Code>BadDigest</Code><Message>The {header} you specified did not match what we received.</Message>"
        "</Error>"
    ).encode()
    start_response(
        "400 Bad Request", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    )
    return [body]


class MotoServer:
    """moto's server, behind what is wrapped around it, in a thread of this process.

    Args:
        wrap: from moto's WSGI application to the one that answers.

    Attributes:
        endpoint: its address.
        application: what answers.
    """

    def __init__(self, wrap: Callable = HonestS3):
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            MotoRequestHandler,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.application = wrap(DomainDispatcherApplication(create_backend_app))
        self._server = make_server(
            "127.0.0.1", 0, self.application, threaded=True, request_handler=MotoRequestHandler
        )
        self.endpoint = "http://{}:{}".format(*self._server.server_address[:2])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def environment(self) -> dict[str, str]:
        """By which boto3 and delta-rs of any process reach the server."""
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
