"""Waiting for a store that asks to slow down."""

from __future__ import annotations

import logging
import random
import time
from threading import Lock

log = logging.getLogger("faceid")

TRIES = 24
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 8.0
_SECONDS_BETWEEN_WORDS = 60.0
# AWS says SlowDown or RequestLimitExceeded, clones say the others; a HEAD's answer has a status only.
THROTTLED = {
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "TooManyRequests",
    "TooManyRequestsException",
    "BandwidthLimitExceeded",
    "ServiceUnavailable",
    "429",
    "503",
}


class Patience:
    """Retries of requests that S3 asks to slow down; boto3's handler of `needs-retry`.

    boto3's standard mode gives up after `s3.attempts` tries, and earlier when many requests in a row were refused; its
    adaptive mode does too. Here each request waits by itself, longer each time: two minutes in all.
    """

    def __init__(self, url: str):
        """Take the store's address, for what is said."""
        self._url, self._lock = url, Lock()
        self._count, self._said_at = 0, float("-inf")

    def __call__(self, attempts: int, response, **_) -> float | None:
        """Seconds until the request is sent again; None to leave it to boto3."""
        if response is None or attempts >= TRIES:
            return None
        code = str(response[1].get("Error", {}).get("Code", ""))
        if code not in THROTTLED and response[0].status_code not in (429, 503):
            return None
        self._say(code)
        longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (attempts - 1))
        return random.uniform(longest / 2, longest)

    def _say(self, code: str) -> None:
        with self._lock:
            self._count += 1
            if time.monotonic() - self._said_at < _SECONDS_BETWEEN_WORDS:
                return
            self._said_at, count = time.monotonic(), self._count
        log.warning(
            "%s asks to slow down (%s, %d requests so far): waiting and asking again; fewer workers or another hour "
            "would be faster",
            self._url,
            code,
            count,
        )
