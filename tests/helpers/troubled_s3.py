"""moto's S3 server with troubles in front of it: refusals by code, a console's page, a store that asks to slow down."""

from __future__ import annotations

import random
import threading
from collections import Counter
from urllib.parse import parse_qs

PAGE = b"<!doctype html><html><head><title>Console</title></head><body>Sign in<br></body></html>"
_STATUS = {
    "ExpiredToken": "400 Bad Request",
    "TokenRefreshRequired": "400 Bad Request",
    "AuthorizationHeaderMalformed": "400 Bad Request",
    "InvalidRequest": "400 Bad Request",
    "InvalidBucketName": "400 Bad Request",
    "NoSuchBucket": "404 Not Found",
    "301": "301 Moved Permanently",
    "PermanentRedirect": "301 Moved Permanently",
    "NotImplemented": "501 Not Implemented",
    "MethodNotAllowed": "405 Method Not Allowed",
    "SlowDown": "503 Slow Down",
}


class TroubledS3:
    """A WSGI application in front of moto's that refuses what `wanted` says.

    Attributes:
        code: of the refusal; "page" answers everything with a web page and 200. Empty: no trouble.
        inside: more elements of the answer's body.
        wanted: from a request's environment to whether it meets the trouble.
        seen: requests by method, with and without the trouble.
    """

    def __init__(self, application):
        self._application, self._lock = application, threading.Lock()
        self.code, self.inside, self.headers = "", "", ()
        self.wanted = lambda environ: True
        self.seen: Counter[str] = Counter()

    def __call__(self, environ, start_response):
        with self._lock:
            self.seen[environ["REQUEST_METHOD"]] += 1
            meets = bool(self.code) and self.wanted(environ)
        if not meets:
            return self._application(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        self.seen["refused"] += 1
        if self.code == "page":
            return self._answer(environ, start_response, "200 OK", "text/html; charset=utf-8", PAGE)
        body = f"<Error><Code>{self.code}</Code><Message>As told.</Message>{self.inside}</Error>".encode()
        status = _STATUS.get(self.code, "403 Forbidden")
        return self._answer(environ, start_response, status, "application/xml", body)

    def _answer(self, environ, start_response, status, kind, body):
        head = environ["REQUEST_METHOD"] == "HEAD"
        start_response(
            status,
            [
                ("Content-Type", kind),
                ("Content-Length", str(0 if head else len(body))),
                *self.headers,
            ],
        )
        return [b"" if head else body]


def every_other(seed: int):
    """A choice that meets half of the requests."""
    drawn = random.Random(seed)
    return lambda environ: drawn.random() < 0.5


def writes(environ) -> bool:
    """Whether a request writes."""
    return environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE")


def lists(environ) -> bool:
    """Whether a request lists."""
    return environ["REQUEST_METHOD"] == "GET" and "list-type" in parse_qs(environ["QUERY_STRING"])
