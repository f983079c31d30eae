"""How many people fit into a device's memory at once, measured before the first of them is taught."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from faceid_core.diffusion.base import BaseModel

from .method import Method
from .slots import TrainingPhoto
from .trainer import personalize

log = logging.getLogger(__name__)

MOST_SLOTS = 32  # more people at once gained nothing at any size that was measured (docs/benchmarks.md)
_CPU_SLOTS = 8
_SHARE = 0.9  # of the free memory; the rest is for fragments


def measured_slots(base: BaseModel, method: Method, samples_at_once: int = 0) -> int:
    """Slots for this device: on CUDA as many as its free memory holds, a power of two; elsewhere eight.

    Two runs of one step, with one and with two made-up people, say what the first and every further one take.
    """
    if base.device.type != "cuda":
        return _CPU_SLOTS
    kept_unused = torch.cuda.memory_reserved(base.device) - torch.cuda.memory_allocated(base.device)
    free = torch.cuda.mem_get_info(base.device)[0] + kept_unused
    found = fitting_slots(lambda count: _peak_bytes(base, method, count, samples_at_once), free)
    torch.cuda.empty_cache()
    log.info("%d slots fit into the %.1f GB that are free", found, free / 1e9)
    return found


def fitting_slots(bytes_with: Callable[[int], int], free_bytes: int) -> int:
    """The largest power of two of people, at most `MOST_SLOTS`, that fits; at least one.

    Args:
        bytes_with: memory that a step with so many people takes at its peak.
        free_bytes: memory that there is.
    """
    first = bytes_with(1)
    further = max(1, bytes_with(2) - first)
    room = int(free_bytes * _SHARE) - first
    fits = 1 + max(0, room) // further
    return min(MOST_SLOTS, 1 << (fits.bit_length() - 1))


def _peak_bytes(base: BaseModel, method: Method, count: int, samples_at_once: int) -> int:
    import torch

    side = base.description.resolution
    gray, whole = np.full((side, side, 3), 127, np.uint8), np.ones((side, side), np.float32)
    photos = [
        TrainingPhoto(f"nobody-{number}", "0" * 64, gray, whole, whole > 0, "person")
        for number in range(count)
    ]
    torch.cuda.reset_peak_memory_stats(base.device)
    held = torch.cuda.memory_allocated(base.device)
    step = method.model_copy(update={"steps": 1})
    for _ in personalize(base, photos, step, slots=count, samples_at_once=samples_at_once):
        pass
    return torch.cuda.max_memory_allocated(base.device) - held
