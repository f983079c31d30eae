"""Progress of a run on the terminal, and the table at its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from faceid_core.report.figures import duration
from faceid_core.stages.name_prior import SUBJECT as KNOWN_NAMES
from faceid_core.stages.work import Done

LINE_SECONDS = 15.0  # between lines of progress, without a terminal
_WHOLE_CHARACTERS = 40  # of an id or a key on one line; a longer one goes on in the next


class _Counted(ProgressColumn):
    """Whole results of a stage; its bar also moves with the steps inside them."""

    def render(self, task: Task) -> Text:
        """See ProgressColumn."""
        return Text(f"{task.fields['settled']}/{task.total:.0f}", style="progress.download")


class ConsoleReporter:
    """Progress bars on a terminal, one per stage; plain lines elsewhere."""

    def __init__(self, console: Console):
        self.console = console
        self._bars = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            _Counted(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[detail]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._lock = threading.Lock()
        self._stage, self._task, self._last_time, self._last_line = "", None, 0.0, ""
        self._settled = self._total = self._hits = 0
        self._under_way: dict[str, float] = {}  # subject -> share of its work that is done, 0..1
        self._shares = 0.0  # their sum: thousands of people may be under way at once
        self._began = 0.0
        self._prior_began: float | None = None

    def __enter__(self) -> ConsoleReporter:
        self._bars.start()
        return self

    def __exit__(self, *_) -> None:
        self._bars.stop()

    def looked_up(self, stage: str, *, hits: int, misses: int) -> None:
        """See Reporter."""
        with self._lock:
            self._stage, self._settled, self._total, self._hits = stage, 0, misses, hits
            self._under_way, self._shares, self._began, self._last_line = {}, 0.0, time.monotonic(), ""
            self._task = self._bars.add_task(
                stage, total=hits + misses, completed=hits, settled=hits, detail=f"{hits} cached"
            )
            if not self.console.is_terminal or not misses:
                self.console.print(f"{stage:<12} {hits} cached, {misses} to compute", highlight=False)

    def progressed(self, subject: str, done: int, total: int | None) -> None:
        """See Reporter."""
        with self._lock:
            if subject == KNOWN_NAMES:
                self._prior_progressed(done, total or 0)
                return
            share = min(1.0, done / total) if total else 0.0
            self._shares += share - self._under_way.get(subject, 0.0)
            self._under_way[subject] = share
            detail = f"{subject[:8]} {done}/{total}" if total and total > 1 else ""
            self._move(detail)
            line = f"{self._stage:<12} {self._settled} of {self._total} finished"
            self._print_line(line + (f"; {detail}" if detail else ""), self._time_left())

    def _prior_progressed(self, done: int, total: int) -> None:
        """Show the portraits of known names, which identities wait for: the pace of these is counted from the last."""
        self._began = now = time.monotonic()
        self._prior_began = self._prior_began or now
        self._move(f"known names {done}/{total}")
        left = (now - self._prior_began) * (total - done) / done if done else 0.0
        line = f"{self._stage:<12} draws known names, {done}/{total}"
        self._print_line(line, f"; about {duration(left)} left for them" if left >= 1 else "")

    def _print_line(self, line: str, time_left: str) -> None:
        """Print a line of progress, without a terminal, if it is time and the line is new."""
        if self.console.is_terminal or time.monotonic() - self._last_time <= LINE_SECONDS or line == self._last_line:
            return
        self._last_time, self._last_line = time.monotonic(), line
        self.console.print(line + time_left, highlight=False)

    def _move(self, detail: str) -> None:
        if self._task is not None:
            self._bars.update(
                self._task, completed=self._hits + self._done(), settled=self._hits + self._settled, detail=detail
            )

    def _done(self) -> float:
        """Results of the stage that are finished, and the shares of those under way."""
        return min(float(self._total), self._settled + self._shares)

    def _time_left(self) -> str:
        """The rest of the stage at the pace so far; empty where nothing can be said."""
        done, seconds = self._done(), time.monotonic() - self._began
        left = seconds * (self._total - done) / done if done else 0.0
        return f"; about {duration(left)} left" if left >= 1 else ""

    def settled(self, stage: str, done: Done) -> None:
        """See Reporter."""
        with self._lock:
            # Results of later stages arrive earlier; what they were under way by is over, too.
            self._shares -= self._under_way.pop(done.work.subject, 0.0)
            if stage == self._stage:
                self._settled += 1
                self._move("")
            if done.status != "done":
                line = f"{done.work.call.stage} {done.work.subject}: {done.status}: {done.message}"
                self.console.print(line, style="yellow", highlight=False, markup=False)

    def note(self, text: str) -> None:
        """See Reporter."""
        self.console.print(text, highlight=False, markup=False)


class StatusLine:
    """What a command is doing, on standard error, which is not its product: a line that changes on a terminal.

    It hears of a plan's lookups as a `Reporter`.

    Args:
        lines: Print a line for each thing where there is no terminal; otherwise nothing.
    """

    def __init__(self, *, lines: bool = False):
        self._console = Console(stderr=True, highlight=False)
        self._status, self._prints = self._console.status(""), lines and not self._console.is_terminal

    def __enter__(self) -> StatusLine:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def show(self, text: str) -> None:
        """Say what begins now."""
        if self._prints:
            self._console.print(text, markup=False, soft_wrap=True)
        self._status.update(escape(text))

    def looked_up(self, stage: str, *, hits: int, misses: int) -> None:
        """See Reporter."""
        self.show(f"planning: {stage} is looked up, {hits} cached, {misses} to compute")

    def progressed(self, subject: str, done: int, total: int | None) -> None:
        """See Reporter; a plan computes nothing."""

    def settled(self, stage: str, done: Done) -> None:
        """See Reporter; a plan computes nothing."""

    def note(self, text: str) -> None:
        """See Reporter; the plan says it again at its end."""


def name_column(table: Table, title: str, names: Iterable[str]) -> None:
    """Add a column of ids or keys, which stay whole on a narrow terminal: the other columns give way."""
    longest = max((len(name) for name in names), default=0)
    table.add_column(title, no_wrap=longest <= _WHOLE_CHARACTERS, overflow="fold")


def final_table(rows: Sequence[Mapping]) -> Table:
    """The table at the end of a run: a row for each identity, and for floor and ceiling.

    Args:
        rows: identity, outcome, seconds, identity_similarity, concepts_obeyed, leakage, detection; figures may be None.
    """
    table = Table(title=None, header_style="bold", padding=(0, 1, 0, 0), box=None, pad_edge=False)
    name_column(table, "identity", [str(row["identity"]) for row in rows])
    table.add_column("outcome", overflow="fold")
    for name in ("seconds", "identity\nsimilarity", "concept\naccuracy", "leakage", "detection"):
        table.add_column(name, justify="right")
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
