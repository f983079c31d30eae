"""Waits for what another process brings about."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAIT_SECONDS = 120
_END_OF_LOG = 5000  # characters


def within_time(
    found: Callable[[], Any], what: str, *, seconds: float = WAIT_SECONDS, log: Path | None = None
) -> Any:
    """Ask until the answer is true, and return it.

    Args:
        found: what is asked.
        what: the event that is waited for, in the message.
        seconds: how long.
        log: of the other process; the message has its end.

    Raises:
        AssertionError: not within this time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.2)
    end = f"; the log ends:\n{log.read_text(errors='replace')[-_END_OF_LOG:]}" if log else ""
    raise AssertionError(f"{what} did not happen within {seconds:.0f} s{end}")
