"""What one run of the benchmarks was asked for, and the devices it can ask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FIRST_SEED = 300_000  # of the rendered people: no training saw them


@dataclass(frozen=True)
class Settings:
    """The command line, parsed.

    Attributes:
        scratch: a folder for stores, photos and models, deleted afterwards by its maker.
        repeats: kept rounds of every alternating measurement.
        quick: sizes at which every benchmark takes seconds: for trying the code, not for figures.
        people: the largest number of people, None for each benchmark's own.
        threads: CPU threads of every process that computes.
        executor: of the runs: inline, or ray (under Prefect).
        script: diffusers' textual_inversion.py; script_python: the interpreter that runs it.
        script_batch, script_rate, script_steps: how the script learns a person in seconds-per-person.
        script_template: the prompt that it learns from; empty for its own list.
        device: of the benchmark gpu: cuda, or cpu to try its code.
        cuda_base: a Stable Diffusion folder for the benchmark gpu; None makes 1.5 and XL with random weights.
    """

    scratch: Path
    repeats: int = 3
    quick: bool = False
    people: int | None = None
    threads: int = 1
    executor: str = "inline"
    script: Path | None = None
    script_python: str = ""
    script_batch: int = 10
    script_rate: float = 0.06
    script_steps: int = 200
    script_template: str = "a photo of the face of {}"
    device: str = "cuda"
    cuda_base: Path | None = None

    @property
    def warm(self) -> int:
        """Rounds that are thrown away before those that count."""
        return 0 if self.quick else 1


@dataclass(frozen=True)
class Place:
    """A device with the base model and precision that stand for it.

    Attributes:
        base: "miniature", or a folder in diffusers' layout.
    """

    device: str
    base: str
    precision: str

    @property
    def label(self) -> str:
        """As it stands in the table."""
        return f"{self.device}, {self.precision}"


# CUDA is the benchmark gpu's alone.
CPU = Place("cpu", "miniature", "float32")


def cpu_bfloat16() -> list[Place]:
    """The CPU in bfloat16, where it has instructions for it; there a user would take them."""
    import torch

    able = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return [Place("cpu", "miniature", "bfloat16")] if able else []
