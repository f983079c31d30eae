"""What a worker says of its node before it is used."""

from __future__ import annotations

from typing import NamedTuple

import ray

from tasks.shared_folder import Probe


class Fitness(NamedTuple):
    """Whether a worker can do the run's work where it was started.

    Attributes:
        refusal: Why it must not be used; empty if it may be.
        warning: What is not as it was asked for, though it can work.
    """

    refusal: str = ""
    warning: str = ""


def fitness(probe: Probe | None, device: str) -> Fitness:
    """Look at the node of the calling actor.

    Args:
        probe: Of a folder store, which the node must read; None for none.
        device: `base_model.device`. A GPU that Ray gives and torch does not see is a driver that does not fit, or a
            torch without CUDA: `cuda` cannot work there, `auto` computes on the CPU, many times slower.
    """
    if probe and not probe.is_read():
        return Fitness(refusal=probe.not_read_on([ray.util.get_node_ip_address()]))
    if not ray.get_gpu_ids():
        return Fitness()
    import torch

    if torch.cuda.is_available():
        return Fitness()
    seen = (
        f"node {ray.util.get_node_ip_address()} gives its worker a GPU, and torch {torch.__version__} finds no CUDA "
        "device there: mend the node's driver, or install a torch with CUDA"
    )
    if device == "auto":
        return Fitness(warning=f"{seen}; until then it computes on the CPU (base_model.device: auto)")
    return Fitness(refusal=f"{seen} (base_model.device: {device})")
