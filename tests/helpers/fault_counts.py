"""What exhaustive runs of the fault suite have passed: remembered, so that an interrupted one goes on, and counted.

python -m tests.helpers.fault_counts          # the table of docs/faults.md from work/faults/*.json
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections import Counter
from hashlib import sha256
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_CODE = (
    "data_contracts/**/*.py", "faceid_core/**/*.py", "tasks/**/*.py", "flows/**/*.py",
    "tests/helpers/faulty.py", "tests/helpers/killed.py", "tests/helpers/aftermath.py",
)  # fmt: skip


def folder() -> Path:
    """Where the records lie: work/faults of the repository, or FACEID_FAULTS."""
    return Path(os.environ.get("FACEID_FAULTS", REPOSITORY / "work" / "faults"))


class FaultRecord:
    """The points of one exhaustive run that passed, and its counts; points passed with other code count no more."""

    def __init__(self, name: str, *, code: str | None = None):
        """Read what an earlier run left.

        Args:
            name: of the run, and of its file.
            code: a digest of the code under test; None takes that of this repository.
        """
        self.name, self._path = name, folder() / f"{name}.json"
        self._code = code or code_digest()
        self.passed: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.points = 0
        if self._path.exists():
            record = json.loads(self._path.read_text())
            if record["code"] == self._code:
                self.passed, self.counts = set(record["passed"]), Counter(record["counts"])

    def left(self, points: list[str]) -> list[str]:
        """Of all points of the run those that have not passed."""
        self.points = len(points)
        self._write()
        return [point for point in points if point not in self.passed]

    def add(self, point: str, **counts: int) -> None:
        """Remember that a point passed, and what was counted at it; one that passed before counts once."""
        if point in self.passed:
            return
        self.passed.add(point)
        self.counts.update(counts)
        self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "code": self._code, "points": self.points, "at": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
            "counts": dict(self.counts), "passed": sorted(self.passed),
        }  # fmt: skip
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(record))
        temporary.replace(self._path)


def code_digest() -> str:
    """A digest of every Python file that decides how a run meets a fault."""
    whole = sha256()
    for path in sorted(path for pattern in _CODE for path in REPOSITORY.glob(pattern)):
        whole.update(f"{path.relative_to(REPOSITORY)}\n".encode() + path.read_bytes())
    return whole.hexdigest()


def table() -> str:
    """The counts of all records as a table in Markdown."""
    lines = [
        "| run | points passed | of | faults injected | runs survived | objects compared | day |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for path in sorted(folder().glob("*.json")):
        record = json.loads(path.read_text())
        counts = (record["counts"].get(name, 0) for name in ("faults", "runs", "compared"))
        figures = (len(record["passed"]), record["points"], *counts)
        lines.append(f"| {path.stem} | {' | '.join(f'{figure:,}' for figure in figures)} | {record['at']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
