"""Progress of a run on the terminal, and the table at its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from faceid_core.stages.work import Done

LINE_SECONDS = 15.0  # between lines of progress, without a terminal


class ConsoleReporter:
    """Progress bars on a terminal, one per stage; plain lines elsewhere."""

    def __init__(self, console: Console):
        self.console = console
        self._bars = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._lock = threading.Lock()
        self._stage, self._task, self._last_line = "", None, 0.0
        self._settled = self._total = 0

    def __enter__(self) -> ConsoleReporter:
        self._bars.start()
        return self

    def __exit__(self, *_) -> None:
        self._bars.stop()

    def looked_up(self, stage: str, *, hits: int, misses: int) -> None:
        """See Reporter."""
        with self._lock:
            self._stage, self._settled, self._total = stage, 0, misses
            self._task = self._bars.add_task(
                stage, total=hits + misses, completed=hits, detail=f"{hits} cached"
            )
            if not self.console.is_terminal or not misses:
                self.console.print(f"{stage:<12} {hits} cached, {misses} to compute", highlight=False)

    def progressed(self, subject: str, done: int, total: int | None) -> None:
        """See Reporter."""
        with self._lock:
            detail = f"{subject[:20]} {done}/{total}"
            if self._task is not None:
                self._bars.update(self._task, detail=detail)
            if not self.console.is_terminal and time.monotonic() - self._last_line > LINE_SECONDS:
                self._last_line = time.monotonic()
                self.console.print(
                    f"{self._stage:<12} {self._settled} of {self._total} finished; {detail}", highlight=False
                )

    def settled(self, stage: str, done: Done) -> None:
        """See Reporter."""
        with self._lock:
            if stage == self._stage:  # results of prefetched stages arrive earlier
                self._settled += 1
                if self._task is not None:
                    self._bars.advance(self._task)
            if done.status != "done":
                line = f"{done.work.call.stage} {done.work.subject}: {done.status}: {done.message}"
                self.console.print(line, style="yellow", highlight=False, markup=False)

    def note(self, text: str) -> None:
        """See Reporter."""
        self.console.print(text, highlight=False, markup=False)


def final_table(rows: Sequence[Mapping]) -> Table:
    """The table at the end of a run: a row for each identity, and for floor and ceiling.

    Args:
        rows: identity, outcome, seconds, identity_similarity, concepts_obeyed, leakage, detection; figures may be None.
    """
    table = Table(title=None, header_style="bold")
    for name, justify in (
        ("identity", "left"), ("outcome", "left"), ("seconds", "right"),
        ("identity similarity", "right"), ("concept accuracy", "right"), ("leakage", "right"), ("detection", "right"),
    ):  # fmt: skip
        table.add_column(name, justify=justify)
    for row in rows:
        table.add_row(
            str(row["identity"]),
            str(row["outcome"]),
            "" if row.get("seconds") is None else f"{row['seconds']:.1f}",
            *(
                _figure(row.get(name))
                for name in ("identity_similarity", "concepts_obeyed", "leakage", "detection")
            ),
        )
    return table


def _figure(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3f}"
