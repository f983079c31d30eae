"""Nights in processes of their own: people and grids for them, the ordinary command, and what its clock saw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .child import BEGAN
from .settings import FIRST_SEED, Settings

ROOT = Path(__file__).resolve().parents[2]
_SECRET = "be" * 32
_TEXTS = ("a photo of V* on the beach", "a photo of the face of V* smiling")
STAGES = ("detect", "parse", "mask", "personalize", "generate")
METRICS = ("identity", "detection", "concepts", "image_text", "attention", "leakage")


@dataclass(frozen=True)
class Seen:
    """What a run's clock saw, in seconds.

    Attributes:
        seconds: from the process's start to its end.
        moments: when something happened first. spans: how long something lasted, and how often.
        peak_bytes: resident memory of the driver, None where the system does not tell.
        model_libraries: those that the driver had imported at its end.
        processor_seconds: of the process and its threads.
        requests: to the store, through our own client; the tables' library is not counted.
    """

    seconds: float
    moments: Mapping[str, float]
    spans: Mapping[str, tuple[float, int]]
    peak_bytes: int | None
    model_libraries: Sequence[str]
    processor_seconds: float = 0.0
    requests: int = 0

    def lasted(self, name: str) -> float:
        """Seconds of a span, 0 if it never was."""
        return self.spans.get(name, (0.0, 0))[0]

    @property
    def start_up(self) -> float:
        """Seconds that the number of people has no part in: interpreter, imports, Prefect's server, Ray, torch."""
        before = self.moments["lookup"] - self.lasted("opening")
        asked, first = self.moments.get("executor"), self.moments.get("execute")
        return before + (first - asked if asked and first else 0.0) + self.lasted("imports")

    @property
    def beyond_start_up(self) -> float:
        """The rest."""
        return self.seconds - self.start_up

    @property
    def in_stages(self) -> float:
        """Seconds in which a worker read, computed or committed; under Ray, in which the pool had work."""
        return self.lasted("worker") or self.lasted("execute")

    @property
    def orchestration(self) -> float:
        """Seconds beyond start-up outside the stages, publication included."""
        return self.beyond_start_up - self.in_stages

    def told(self) -> str:
        """Where the time beyond start-up went, in words."""
        parts = {
            "opening": self.lasted("opening"),
            "lookup": self.lasted("lookup"),
            "stages": self.in_stages,
            **{name: self.lasted(f"publish: {name}") for name in ("scores", "pages", "tables")},
        }
        parts["rest"] = self.beyond_start_up - sum(parts.values())
        return "s: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items())


def write_people(folder: Path, count: int) -> Path:
    """Photos of people whom no training saw, and their manifest."""
    from faceid_core.miniature.samples import write_samples

    return write_samples(folder, range(FIRST_SEED, FIRST_SEED + count), prefix="benchmark")


def write_grid(folder: Path, prompts: int) -> Path:
    """A prompt grid of one or two prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"grid-{prompts}.yaml"
    expected = ("{scene: beach}", "{attribute: smiling}")
    lines = [
        f'  - {{id: p{n}, text: "{_TEXTS[n]}", category: scene, expected: {expected[n]}}}'
        for n in range(prompts)
    ]
    path.write_text("\n".join([f"name: benchmark-{prompts}", "prompts:", *lines, ""]), encoding="utf-8")
    return path


def brevity(settings: Settings) -> tuple[str, ...]:
    """Options of a quick run: one named person for the ceiling, and two slots (empty ones cost as much as full ones)."""
    return ("--set", "score.named_people=1", "--set", "personalize.slots=2") if settings.quick else ()


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """Of every night: a secret, Ray and Prefect of its own, the run's threads, no cloud but what `more` names."""
    threads = str(settings.threads)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "RAY_", "PREFECT_API"))
    }
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH", "")]))
    return kept | {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": threads,
        "FACEID_IDENTITY_SECRET": _SECRET,
        "PREFECT_HOME": str(settings.scratch / "prefect"),
        "RAY_TMPDIR": str(settings.scratch),
        "AWS_EC2_METADATA_DISABLED": "true",
        **more,
    }


def start_run(settings: Settings, *arguments: str, executor: str | None = None, **env: str) -> Seen:
    """`faceid run` with these arguments in a process of its own.

    Raises:
        RuntimeError: it ended with another status than 0; its last lines are in the text.
    """
    options = ("--executor", executor or settings.executor)
    threads = ("--set", f"execution.threads_per_worker={settings.threads}")
    return start_command(settings, "run", *arguments, *options, *threads, **env)


def start_command(settings: Settings, command: str, *arguments: str, wanted: str = "", **env: str) -> Seen:
    """A `faceid` command in a process of its own.

    Raises:
        RuntimeError: it ended with another status than 0, or did not print the text `wanted`; its last lines are in the
            text.
    """
    report = settings.scratch / "report.json"
    report.unlink(missing_ok=True)
    line = [sys.executable, "-m", "tests.benchmarks.child", str(report), command, *arguments]
    began = {BEGAN: repr(time.monotonic())}
    ended = subprocess.run(
        line, capture_output=True, text=True, cwd=ROOT, env=environment(settings, **env, **began)
    )
    if ended.returncode or wanted not in ended.stdout:
        last = "\n".join((ended.stdout + ended.stderr).splitlines()[-12:])
        raise RuntimeError(f"faceid {command} ended with status {ended.returncode}:\n{last}")
    seen = json.loads(report.read_text(encoding="utf-8"))
    return Seen(**{name: seen[name] for name in Seen.__dataclass_fields__})
