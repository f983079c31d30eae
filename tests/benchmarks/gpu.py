"""All that needs a CUDA GPU, in under eight minutes: training, drawing, the name prior and memory, beside diffusers.

Models: Stable Diffusion 1.5 and XL at full width with random weights, which do the same arithmetic (`--cuda-base FOLDER`
measures that model instead). Compared with what a user of diffusers runs: its Textual Inversion loop
(`published_loop.py`), one person at a time, and its pipeline (`pictures.py`), at the same resolution, precision, samples
a step, sampler, steps and guidance. Only speed and memory are told: random weights learn nothing that could be scored.

Each case is measured once, for its share of time; its first steps, or a call of one sampler step, are thrown away, and a
note tells how many samples or pictures were measured. Ratios are of medians. A part ends early when its time is over,
and so does the whole: what it did not come to is absent, and says so. `--device cpu --quick` tries everything at small
widths.

Fair, and where not, against us: as in `throughput.py` and `pictures.py`. A person's seconds have the opening and the
closing of the slot; those of the loop are its steps alone, without its start-up. Our VAE computes in float32. Photos
are prepared by the CPU and pictures scored by other networks, which is in no figure here.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable

import diffusers
import torch
import transformers

from tests.helpers.architectures import write_architecture

from .gpu_bench import FULL, QUICK, TRAINING_BAR, Bench, Model
from .gpu_parts import (
    ceiling,
    loading,
    our_drawing,
    our_training,
    portraits,
    shipped,
    their_drawing,
    their_training,
)
from .measuring import Budget
from .results import Row, absent, broke
from .settings import Place, Settings

NAME = "gpu"
NO_CUDA = "no CUDA device here"
# The rest of eight minutes is for the start, and for what the last part may exceed its time by.
_WHOLE_SECONDS = 450.0
_MODELS = (
    Model("sd15", "SD 1.5", rate=0.14, steps=3000, batches=(4, 8, 32), has_bars=True),
    Model("sdxl", "SDXL", rate=1.4, steps=400, batches=(4, 8)),
)
_Part = tuple[str, float, Callable[[Bench, Budget], Iterable[Row]]]
_ALL_PARTS: tuple[_Part, ...] = (
    ("pipeline's pictures", 40, their_drawing),
    ("diffusers' loop", 20, their_training),
    ("loading", 60, loading),
    ("training", 45, our_training),
    ("a person with the shipped settings", 40, shipped),
    ("pictures", 40, our_drawing),
    ("name prior", 40, portraits),
    ("ceiling", 15, ceiling),
)
_SECOND_PRECISION: tuple[_Part, ...] = (
    ("diffusers' loop", 10, their_training),
    ("loading", 60, loading),
    ("training", 15, our_training),
)


def run(settings: Settings) -> list[Row]:
    """Every part of every model in bfloat16, training in float16 too; or one row that says why there is none."""
    why = ""
    if settings.device == "cuda" and not torch.cuda.is_available():
        why = NO_CUDA
    elif settings.device == "cpu" and not settings.quick:
        why = "a CPU only tries the code: give --quick"
    if why:
        return [absent(NAME, "everything", why, device=settings.device, bar=("at least", TRAINING_BAR))]
    torch.set_num_threads(settings.threads)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    whole, rows = Budget(_WHOLE_SECONDS), []
    for model in _models(settings):
        folder = settings.cuda_base or write_architecture(
            settings.scratch / model.kind,
            model.kind,
            full_width=not settings.quick,
            device=settings.device,
            precision=torch.float16,
        )
        for precision, parts in (("bfloat16", _ALL_PARTS), ("float16", _SECOND_PRECISION)):
            place = Place(settings.device, str(folder), precision)
            bench = Bench(model, place, settings, QUICK if settings.quick else FULL)
            for part in parts:
                rows += rows_of(bench, part, whole)
            bench.free()
    return rows


def _models(settings: Settings) -> tuple[Model, ...]:
    if settings.cuda_base is None:
        return _MODELS
    return (Model("", settings.cuda_base.name, rate=0.14, steps=3000, batches=(4, 8, 32)),)


def rows_of(bench: Bench, part: _Part, whole: Budget) -> list[Row]:
    """The rows of one part; one that breaks leaves the others."""
    name, seconds, measure = part
    print(f"  {bench.model.name}, {bench.place.label}: {name} ...", file=sys.stderr, flush=True)
    if whole.left <= 0:
        return [bench.absent(name, f"the {whole.seconds:.0f} s of all parts were over")]
    rows: list[Row] = []
    try:
        for row in measure(bench, whole.part(seconds)):
            rows.append(row)
    except torch.OutOfMemoryError:
        rows.append(bench.absent(name, "the GPU's memory does not hold it"))
    except Exception as error:  # the other parts still tell something
        traceback.print_exc()
        rows.append(broke(NAME, f"{bench.model.name}: {name}", error, device=bench.place.label))
    return rows
