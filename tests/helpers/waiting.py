"""Waits for what another process brings about."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

WAIT_SECONDS = 120


def within_time(found: Callable[[], Any], what: str) -> Any:
    """Ask until the answer is true, and return it.

    Args:
        found: what is asked.
        what: the event that is waited for, in the message.

    Raises:
        AssertionError: not within `WAIT_SECONDS`.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen within {WAIT_SECONDS} s")
