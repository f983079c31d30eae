"""Rows of results, their JSON file and their Markdown table."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from .measuring import Spread

Bar = tuple[Literal["at least", "at most"], float]
_BROKE = "broke: "
_PACKAGES = ("torch", "diffusers", "transformers", "accelerate")


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        benchmark: as it is called on the command line.
        case: what was measured, in words.
        unit: of the figure, or "x" for a ratio.
        figure: None where nothing was measured; `absent` then says why.
        bar: what the figure should reach, if anything.
        device: cpu or cuda, with the precision where a network computes.
        note: what a reader must know beside the figure.
    """

    benchmark: str
    case: str
    unit: str
    figure: Spread | None
    bar: Bar | None = None
    device: str = "cpu"
    note: str = ""
    absent: str = ""

    @property
    def broke(self) -> bool:
        """Whether measuring ended with an error."""
        return self.absent.startswith(_BROKE)

    @property
    def verdict(self) -> str:
        """ "met", "missed", "absent", or nothing where there is no bar."""
        if self.figure is None:
            return "absent"
        if self.bar is None:
            return ""
        kind, limit = self.bar
        met = self.figure.median >= limit if kind == "at least" else self.figure.median <= limit
        return "met" if met else "missed"


def absent(benchmark: str, case: str, why: str, *, device: str = "cpu", bar: Bar | None = None) -> Row:
    """A row for what could not be measured here."""
    return Row(benchmark, case, "", None, bar, device, absent=why)


def broke(benchmark: str, case: str, error: Exception, *, device: str = "cpu") -> Row:
    """A row for what ended with an error; any such row makes the command's exit status 1."""
    said = " ".join(str(error).split())[-200:]
    return absent(benchmark, case, f"{_BROKE}{type(error).__name__}: {said}", device=device)


def about_this_machine(threads: int) -> dict:
    """What a figure depends on besides the code: processor, GPU, threads, versions, what else the machine is doing."""
    return {
        "processor": _processor(),
        "gpu": _gpu(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def write_results(folder: Path, about: Mapping, rows: Sequence[Row]) -> tuple[Path, Path]:
    """Write results.json and results.md into a folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {"about": dict(about), "rows": [_as_data(row) for row in rows]}
    whole, table = folder / "results.json", folder / "results.md"
    whole.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    table.write_text(f"{sentence(about)}\n\n{markdown(rows)}\n", encoding="utf-8")
    return whole, table


def sentence(about: Mapping) -> str:
    """The machine in one line."""
    versions = ", ".join(f"{name} {about[name]}" for name in _PACKAGES)
    load = f"load {about['load_before']} before the run"
    gpu = f"{about['gpu']}, " if about["gpu"] else ""
    return f"{gpu}{about['processor']}, {about['cores']} cores, {about['threads']} threads used, {load}; {versions}"


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| benchmark | on | what | median | range | bar | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        what = f"{row.case} ({row.note})" if row.note else row.case
        bar = f"{row.bar[0]} {_short(row.bar[1])}" if row.bar else ""
        verdict = f"absent: {row.absent}" if row.figure is None else row.verdict
        cells = [row.benchmark, row.device, what, *_figures(row), bar, verdict]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def _figures(row: Row) -> tuple[str, str]:
    if row.figure is None:
        return "", ""
    unit = row.unit if row.unit == "x" else f" {row.unit}"
    low, high = _short(row.figure.low), _short(row.figure.high)
    spread = f"{low} to {high}" if row.figure.repeats > 1 else "once"
    return f"{_short(row.figure.median)}{unit}", spread


def _short(number: float) -> str:
    """Three significant digits without exponents."""
    if number == 0 or abs(number) >= 100:
        return f"{number:.0f}"
    return f"{number:.2f}" if abs(number) >= 1 else f"{number:.3g}"


def _as_data(row: Row) -> dict:
    figure = row.figure._asdict() if row.figure else None
    bar = {"kind": row.bar[0], "limit": row.bar[1]} if row.bar else None
    return {**asdict(row), "figure": figure, "bar": bar, "verdict": row.verdict}


def _processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _gpu() -> str:
    """The GPU's name and memory; empty where there is none."""
    import torch  # here: the table's own tests and the runs that are children need no model library

    if not torch.cuda.is_available():
        return ""
    about = torch.cuda.get_device_properties(0)
    return f"{about.name} with {about.total_memory / 2**30:.0f} GiB"
