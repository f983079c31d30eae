"""How far a long command is: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flows.console import LINE_SECONDS


class StepProgress:
    """Shows the steps of one thing after another; called with what is done, and how much of it of how much.

    Progress that cannot be shown, because the terminal or the pipe is gone, is dropped: the work goes on.
    """

    def __init__(self, console: Console):
        self._console, self._shown = console, True
        self._bars = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._what, self._task, self._last_line = "", None, 0.0

    def __enter__(self) -> StepProgress:
        self._try(self._bars.start)
        return self

    def __exit__(self, *_: object) -> None:
        self._try(self._bars.stop)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that so many steps of something are done."""
        self._try(lambda: self._show(what, done, total))

    def _show(self, what: str, done: int, total: int) -> None:
        began = what != self._what
        if began:
            self._what, self._task = what, self._bars.add_task(what, total=total)
        self._bars.update(self._task, completed=done)
        if self._console.is_terminal or not (began or time.monotonic() - self._last_line > LINE_SECONDS):
            return
        self._last_line = time.monotonic()
        self._console.print(f"{what}: {done} of {total}", soft_wrap=True)

    def _try(self, show: Callable[[], object]) -> None:
        if not self._shown:
            return
        try:
            show()
        except (OSError, SystemExit):  # rich leaves the process when a pipe is closed
            self._shown = False
