"""The one type of callback that reports how far a piece of work has come."""

from __future__ import annotations

from collections.abc import Callable

# Called with the name of what is worked on (an identity's key, a file), how much is done, and how much there is
# (None where that is unknown). The unit is the caller's: training steps, pictures, bytes.
ProgressCallback = Callable[[str, int, int | None], None]


def no_progress(name: str, done: int, total: int | None) -> None:
    """Report nothing."""
