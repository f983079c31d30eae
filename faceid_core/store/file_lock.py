"""Locks of files among processes and threads, waited for with a limit: a holder may be suspended, or hang."""

from __future__ import annotations

import fcntl
import logging
import time
from pathlib import Path
from typing import IO

from ..errors import StoreError

log = logging.getLogger(__name__)

_SAY_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 0.05


def lock_file(file: IO | int, what: str, *, seconds: float, path: Path | None = None) -> None:
    """Lock an open file exclusively; the system frees a dead holder's lock, and closing the file one's own.

    Args:
        file: the open file, or its descriptor.
        what: it stands for, in words, for those who wait.
        seconds: to wait at most.
        path: of the file, where `file` is a descriptor.

    Raises:
        StoreError: another process or thread held it for so long.
    """
    name = path or getattr(file, "name", file)
    began, pause, told = time.monotonic(), 0.0005, False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            waited = time.monotonic() - began
        if waited > seconds:
            raise StoreError(
                f"{what} has been locked by another process for {seconds:.0f} s, which may be suspended or hang; "
                f"`fuser {name}` names it: continue or end it, and run again"
            )
        if waited > _SAY_SECONDS and not told:
            told = True
            log.warning("waiting for another process that has locked %s (%s)", what, name)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
