"""Checkpoints: a person's training as it stands, from which another worker goes on to the very same tokens.

Every random draw depends on its purpose, never on a generator's state, so parameters, moments and step are enough.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from faceid_core.errors import FaceidError

from .slots import Slot

_FORMAT = "faceid-checkpoint-1"
_MOMENTS = ("exp_avg", "exp_avg_sq")


class UnusableCheckpoint(FaceidError):
    """A checkpoint is damaged or belongs to another method; training begins again."""


@dataclass(frozen=True)
class Checkpoint:
    """One person's training after `step` steps; `data` is a safetensors file, as private as the photo."""

    name: str
    step: int
    data: bytes


def write_checkpoint(slot: Slot) -> Checkpoint:
    """The slot as bytes: parameters and moments as they are, the rest as numbers whose text is exact."""
    tensors = {"attention_before": slot.attention_before}
    for number, parameter in enumerate(_parameters(slot)):
        tensors[f"{number}.parameter"] = parameter.detach()
        state = slot.optimizer.state[parameter]
        tensors |= {f"{number}.{name}": state[name] for name in _MOMENTS if name in state}
    progress = {
        "format": _FORMAT,
        "step": slot.step,
        "attempt": [slot.attempt, slot.first_fault],
        "curve": slot.curve,
        "seconds": slot.seconds,
        "plateau": [slot.plateau.best, slot.plateau.best_step],
    }
    whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    return Checkpoint(slot.photo.name, slot.step, save(whole, {"progress": json.dumps(progress)}))


def resume(slot: Slot, data: bytes, steps: int) -> None:
    """Put a freshly opened slot where a checkpoint left off; on an error the slot is unchanged.

    Args:
        steps: of the whole training.

    Raises:
        UnusableCheckpoint: the checkpoint is damaged, of another format, or of vectors of another shape.
    """
    try:
        tensors, progress = load(data), _progress(data)
        wanted = [*_parameters(slot)]
        found = [tensors[f"{number}.parameter"] for number in range(len(wanted))]
        names = _MOMENTS if isinstance(slot.optimizer, torch.optim.AdamW) else ()
        moments = [[tensors[f"{number}.{name}"] for name in names] for number in range(len(wanted))]
        for parameter, value, pair in zip(wanted, found, moments, strict=True):
            if any(each.shape != parameter.shape or each.dtype != parameter.dtype for each in (value, *pair)):
                raise ValueError(f"shape {list(value.shape)} instead of {list(parameter.shape)}")
        step, curve, attention = int(progress["step"]), list(progress["curve"]), tensors["attention_before"]
        seconds, (best, best_step) = float(progress["seconds"]), progress["plateau"]
        attempt, first_fault = progress["attempt"]
        attempt, first_fault = int(attempt), str(first_fault)
        if not 1 <= step < steps or step != len(curve):
            raise ValueError(f"step {step} of {steps} with {len(curve)} rows")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UnusableCheckpoint(f"the checkpoint cannot be used: {error}") from None
    with torch.no_grad():
        for parameter, value, pair in zip(wanted, found, moments, strict=True):
            parameter.copy_(value)
            if names:
                slot.optimizer.state[parameter] = {
                    "step": torch.tensor(float(step)),
                    **{name: each.to(parameter.device) for name, each in zip(names, pair, strict=True)},
                }
    slot.step, slot.curve, slot.seconds = step, curve, slot.seconds + seconds
    slot.attention_before, slot.attempt, slot.first_fault = attention, attempt, first_fault
    slot.plateau.best, slot.plateau.best_step = float(best), int(best_step)


def _parameters(slot: Slot):
    return (parameter for group in slot.optimizer.param_groups for parameter in group["params"])


def _progress(data: bytes) -> dict:
    header = int.from_bytes(data[:8], "little")
    progress = json.loads(json.loads(data[8 : 8 + header])["__metadata__"]["progress"])
    if progress["format"] != _FORMAT:
        raise ValueError(f"format {progress['format']!r}")
    return progress
