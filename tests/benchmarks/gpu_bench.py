"""What the parts of the benchmark `gpu` share: the model and its place, how much is measured, what was found so far."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from faceid_core.config.personalize import PersonalizeConfig
from faceid_core.diffusion.base import BaseModel
from faceid_core.evaluate.grid import load_grid
from faceid_core.personalize.known_names import PUBLIC_FIGURES

from .measuring import Budget, spread
from .results import Bar, Row, absent
from .settings import Place, Settings

SAMPLES = 4  # a step, of plain Textual Inversion as docs/base-models.md has it for Stable Diffusion
GRID, GUIDANCE = "photographs", 7.5  # of docs/stable-diffusion.md
TRAINING_BAR, PICTURES_BAR = 10.0, 3.0
_GIB = 2**30


@dataclass(frozen=True)
class Model:
    """A model that is measured.

    Attributes:
        kind: of `write_architecture`; empty for a folder of the user's.
        rate, steps: of plain Textual Inversion there (docs/base-models.md).
        batches: of pictures.
        has_bars: whether the bars hold for it.
    """

    kind: str
    name: str
    rate: float
    steps: int
    batches: tuple[int, ...]
    has_bars: bool = False


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        ladder: samples a step and people together, in the order of measuring.
        largest_batch: of pictures.
        sampler_steps: of a picture.
        seconds: of measuring in each case.
        names: of the name prior.
        slots: the most people together with the shipped settings.
    """

    ladder: tuple[tuple[int, int], ...]
    largest_batch: int
    sampler_steps: int
    seconds: float
    names: int
    slots: int


FULL = Size(
    ladder=((1, 1), (SAMPLES, 8), (1, 8), (SAMPLES, 1), (1, 4), (1, 16), (1, 32), (SAMPLES, 4)),
    largest_batch=32,
    sampler_steps=30,
    seconds=2.5,
    names=len(PUBLIC_FIGURES),
    slots=PersonalizeConfig.model_fields["slots"].default,
)
QUICK = Size(
    ladder=((1, 1), (SAMPLES, 2), (1, 2)),
    largest_batch=8,
    sampler_steps=2,
    seconds=0.1,
    names=12,
    slots=2,
)


@dataclass
class Bench:
    """One model in one precision, and what its parts have found; later parts compare with it.

    Attributes:
        base: the loaded model, after the part that loads it.
        loop: samples a step -> samples a second of diffusers' loop.
        their_pictures: how the pipeline is called -> pictures a second.
        ours: samples a step and people together -> our samples a second.
    """

    model: Model
    place: Place
    settings: Settings
    size: Size
    base: BaseModel | None = None
    loop: dict[int, float] = field(default_factory=dict)
    their_pictures: dict[str, float] = field(default_factory=dict)
    ours: dict[tuple[int, int], float] = field(default_factory=dict)

    @property
    def loaded(self) -> BaseModel:
        """The base model.

        Raises:
            RuntimeError: the part that loads it did not come to its end.
        """
        if self.base is None:
            raise RuntimeError("the base model was not loaded")
        return self.base

    @property
    def batches(self) -> list[int]:
        """Of pictures."""
        return [batch for batch in self.model.batches if batch <= self.size.largest_batch]

    @property
    def texts(self) -> list[str]:
        """The prompts of the grid, with V*."""
        return [prompt.text for prompt in load_grid(GRID).prompts]

    def row(self, case: str, unit: str, figures: Sequence[float], *notes: str, bar: Bar | None = None) -> Row:
        """A row; empty notes are left out."""
        note = ", ".join(note for note in notes if note)
        return Row("gpu", f"{self.model.name}: {case}", unit, spread(figures), bar, self.place.label, note)

    def absent(self, case: str, why: str) -> Row:
        """A row for what was not measured."""
        return absent("gpu", f"{self.model.name}: {case}", why, device=self.place.label)

    def too_long(self, case: str, expected: float, budget: Budget) -> Row:
        """A row for what would have gone on beyond its part's time."""
        left = max(0.0, budget.left)
        return self.absent(
            case, f"about {expected:.0f} s more, with {left:.0f} of the part's {budget.seconds:.0f} s left"
        )

    @contextmanager
    def memory(self) -> Iterator[Peak]:
        """Watch the GPU's memory in a block."""
        peak = Peak()
        if self.place.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        yield peak
        if self.place.device == "cuda":
            peak.gib = torch.cuda.max_memory_allocated() / _GIB

    def free(self) -> None:
        """Give back what is not held any more, so that the next part's peak is its own."""
        gc.collect()
        if self.place.device == "cuda":
            torch.cuda.empty_cache()


@dataclass
class Peak:
    """The most GiB that PyTorch held on the GPU, weights included; None on a CPU."""

    gib: float | None = None

    @property
    def note(self) -> str:
        """As it stands beside a figure."""
        return "" if self.gib is None else f"peak {self.gib:.1f} GiB"

    def row(self, bench: Bench, case: str) -> Row:
        """As a figure of its own."""
        if self.gib is None:
            return bench.absent(case, "of a GPU only")
        return bench.row(case, "GiB", [self.gib])
