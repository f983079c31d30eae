"""Shared by the trainers: device and format, a learning rate over a time budget, averaged weights, checkpoints."""

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

# Checkpoints and other by-products of training; ignored by git.
WORK = Path("work/miniature")
# Checkpoints that another machine goes on from, in half precision; in the source only.
KEPT = Path(__file__).with_name("checkpoints")


def training_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> AbstractContextManager:
    """bfloat16 on a GPU and on a CPU with instructions for it; others compute it in software, many times slower."""
    if device.type == "cpu" and not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


class Budget:
    """A phase of training that ends after a time, not after a number of steps."""

    def __init__(self, minutes: float):
        self.seconds = minutes * 60
        self.start = time.monotonic()

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the phase began."""
        return time.monotonic() - self.start

    @property
    def progress(self) -> float:
        """From 0 at the start to 1 at the end."""
        return min(1.0, self.elapsed_seconds / self.seconds)


def rate_at(progress: float, step: int, *, peak: float, warm_up_steps: int, hold: float) -> float:
    """Learning rate: linear warm-up, a plateau until `hold` of the budget, then a linear decay to 2 %.

    Args:
        progress: share of the budget that is used up.
    """
    warm = min(1.0, (step + 1) / warm_up_steps)
    cool = 1.0 if progress < hold else 1.0 - 0.98 * (progress - hold) / (1.0 - hold)
    return peak * warm * cool


class Average:
    """An exponential moving average of a module's parameters (EMA)."""

    def __init__(self, module: torch.nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.values = {name: value.detach().clone() for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        """Move the averages towards the module's current parameters."""
        self.steps += 1
        # A long memory would still hold the random initialization in the first steps.
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        values = [self.values[name] for name, _ in module.named_parameters()]
        torch._foreach_lerp_(values, [p.detach() for p in module.parameters()], 1 - decay)

    def state(self, module: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The module's state with the averaged parameters in it."""
        return {**module.state_dict(), **self.values}


def save_checkpoint(state: dict[str, torch.Tensor], name: str) -> Path:
    """Write weights under `WORK` atomically."""
    WORK.mkdir(parents=True, exist_ok=True)
    path = WORK / f"{name}.safetensors"
    part = path.with_suffix(".part")
    save_file({key: value.detach().contiguous().clone() for key, value in state.items()}, part)
    part.replace(path)
    return path


def keep_checkpoint(name: str) -> Path:
    """Write a checkpoint of `WORK` in half precision to where it is committed."""
    state = load_file(WORK / f"{name}.safetensors")
    KEPT.mkdir(exist_ok=True)
    path = KEPT / f"{name}.safetensors"
    save_file({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, path)
    return path


def load_checkpoint(name: str) -> dict[str, torch.Tensor]:
    """Read what `save_checkpoint` wrote here, or else what `keep_checkpoint` wrote elsewhere, in single precision.

    Raises:
        FileNotFoundError: if that model was not trained here and is not kept.
    """
    here, kept = WORK / f"{name}.safetensors", KEPT / f"{name}.safetensors"
    path = here if here.exists() else kept
    if not path.exists():
        raise FileNotFoundError(
            f"no checkpoint {here}; run `python -m faceid_core.miniature_training.train {name}` first"
        )
    return {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
