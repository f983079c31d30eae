"""An executor in this process that overlaps stages as the pool of several workers does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from faceid_core.run.executor import InlineExecutor
from faceid_core.stages.work import Done, Work


class Overlapping(InlineExecutor):
    """Runs what runs beside a stage after it, and then what outcomes make possible, within the same call.

    Attributes:
        calls: 'STAGE SUBJECT' of the works of each call, newest last; tests empty it.
    """

    overlaps = True
    calls: ClassVar[list[list[str]]] = []

    def execute(
        self, works: Sequence[Work], on_progress: Any, on_done: Any, stop: Any, *, beside: Sequence[Work] = ()
    ) -> None:
        """See Executor."""
        following: list[Work] = []
        self.calls.append([f"{work.call.stage} {work.subject}" for work in (*works, *beside)])

        def done(each: Done) -> Sequence[Work]:
            following.extend(on_done(each))
            return ()

        super().execute([*works, *beside], on_progress, done, stop)
        if following:
            super().execute(following, on_progress, done, stop)
