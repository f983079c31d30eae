"""Trains one scorer: `python -m faceid_core.miniature_training.train_scorers recognizer --minutes 8`."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from faceid_core.miniature.reporting_networks import ReportingDetectorNetwork, ReportingParserNetwork
from faceid_core.miniature_training.reporting_tasks import ConceptTask, PrototypeTask
from faceid_core.miniature_training.scorer_data import (
    REPORTING,
    SELECTION,
    Renders,
    Training,
    training_renders,
)
from faceid_core.miniature_training.scorer_spatial import DetectorTask, ParserTask
from faceid_core.miniature_training.scorer_tasks import ImageTextTask, RecognizerTask

# The task of each scorer, given its set's renders.
TASKS: dict[str, Callable[[Renders], Any]] = {
    "detector": DetectorTask,
    "parser": ParserTask,
    "recognizer": RecognizerTask,
    "image_text": ImageTextTask,
    "reporting_recognizer": PrototypeTask,
    "reporting_concepts": ConceptTask,
    "reporting_detector": partial(
        DetectorTask,
        network=ReportingDetectorNetwork,
        arguments={"trunk": {"fine": 64, "coarse": 96, "local": 1, "blocks": "ddad"}},
        learning_rate=2e-3,
        training=REPORTING,
    ),
    "reporting_parser": partial(
        ParserTask,
        network=ReportingParserNetwork,
        arguments={"trunk": {"fine": 64, "coarse": 96, "local": 1, "blocks": "ddad"}},
        learning_rate=2e-3,
    ),
}
WEIGHTS = Path(__file__).parents[1] / "miniature" / "weights"
CHECKPOINT_SECONDS = 60
WARM_UP = 0.03  # share of the training time


def training_of(name: str) -> Training:
    """The training data of a scorer's set."""
    return REPORTING if name.startswith("reporting_") else SELECTION


def learning_rate(progress: float) -> float:
    """Share of the top learning rate after a share of the time: a short rise, then half a cosine to 0."""
    return min(1.0, progress / WARM_UP) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def save_checkpoint(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, seconds: float, step: int
) -> None:
    """Write network, optimizer and clock atomically as one safetensors file."""
    tensors = {f"network.{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value.contiguous() for name, value in state.items()}
    tensors["clock"] = torch.tensor([seconds, step], dtype=torch.float64)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def load_checkpoint(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[float, int]:
    """Restore what `save_checkpoint` wrote; the seconds trained and the steps made."""
    tensors = load_file(path)
    network.load_state_dict(
        {name[8:]: value for name, value in tensors.items() if name.startswith("network.")}
    )
    states: dict[int, dict] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, part = name.split(".")
            states.setdefault(int(number), {})[part] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    seconds, step = tensors["clock"].tolist()
    return seconds, int(step)


def export(network: nn.Module, folder: Path, configuration: dict) -> None:
    """Write the weights in half precision, and the arguments that build the network.

    The recognizer's trait head is for training only and is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in network.state_dict().items() if not name.startswith("traits.")}
    halved = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in kept.items()
    }
    save_file(halved, folder / "model.safetensors")
    network_arguments = {name: value for name, value in configuration["network"].items() if name != "traits"}
    text = json.dumps({**configuration, "network": network_arguments})
    (folder / "config.json").write_text(text + "\n")


def train(
    name: str, *, minutes: float, resume: bool, work: Path, weights: Path = WEIGHTS, persons: int = 16_000
) -> None:
    """Train a scorer for a given time and write its weights.

    Args:
        name: key of `TASKS`.
        minutes: of training in all; the learning rate reaches 0 at their end.
        resume: continue from the checkpoint in `work`.
        work: folder for renders and checkpoints.
        weights: the result goes into a folder of the scorer's name in it.
        persons: how many training people are rendered.
    """
    training = training_of(name)
    torch.manual_seed(training.batches_seed)
    task = TASKS[name](training_renders(work, training, persons=persons))
    configuration = task.configuration()
    network = task.network(**configuration["network"]).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=task.learning_rate, weight_decay=0.02)
    checkpoint = work / f"{name}.safetensors"
    seconds, step = load_checkpoint(checkpoint, network, optimizer) if resume else (0.0, 0)
    # Seeded by the step, so that a resumed training does not repeat its first batches.
    rng = np.random.default_rng([training.batches_seed, step])
    budget, saved = minutes * 60, seconds
    while seconds < budget:
        begun = time.monotonic()
        for group in optimizer.param_groups:
            # From the middle of a first step, because a rate of exactly 0 would waste it.
            group["lr"] = task.learning_rate * learning_rate(seconds / budget + 1e-3)
        batch = task.batch(rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=training is REPORTING):
            losses = task.loss(network, batch)
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        seconds, step = seconds + time.monotonic() - begun, step + 1
        if step % 50 == 0:
            shown = "  ".join(f"{part} {value.item():.4f}" for part, value in losses.items())
            print(f"{name} step {step} {seconds:.0f} s  {shown}", flush=True)
        if seconds - saved > CHECKPOINT_SECONDS:
            save_checkpoint(checkpoint, network, optimizer, seconds, step)
            saved = seconds
    save_checkpoint(checkpoint, network, optimizer, seconds, step)
    configuration["training"] = {"steps": step, "minutes": round(seconds / 60, 1)}
    export(network, weights / name, configuration)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scorer", choices=sorted(TASKS))
    parser.add_argument("--minutes", type=float, default=8.0, help="training time in all (default 8)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the work folder")
    parser.add_argument("--work", type=Path, default=Path("work/scorers"), help="renders and checkpoints")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train(arguments.scorer, minutes=arguments.minutes, resume=arguments.resume, work=arguments.work)


if __name__ == "__main__":
    main()
