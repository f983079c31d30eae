"""Random draws that depend on their purpose only, never on the other people in training or on their order.

Each draw has a generator of its own, seeded by a hash of its purpose. So no random state is carried, a
resumed training draws what it would have drawn, and a slot's index has no influence.
"""

from __future__ import annotations

import hashlib
import json

import torch


def seeded_generator(*purpose: str | int) -> torch.Generator:
    """A CPU generator seeded by sha256 of a purpose, such as (seed, photo digest, "noise", step, sample)."""
    return torch.Generator().manual_seed(seed_of(*purpose))


def seed_of(*purpose: str | int) -> int:
    """The generator's seed for a purpose."""
    preimage = json.dumps(purpose, separators=(",", ":"), ensure_ascii=True).encode()
    return int.from_bytes(hashlib.sha256(preimage).digest()[:8], "big") >> 1


def normal(shape: tuple[int, ...], *purpose: str | int) -> torch.Tensor:
    """Standard normal float32 numbers of a shape for a purpose."""
    return torch.randn(shape, generator=seeded_generator(*purpose))


def integer(low: int, high: int, *purpose: str | int) -> int:
    """A whole number from low to high - 1 for a purpose."""
    return int(torch.randint(low, high, (1,), generator=seeded_generator(*purpose)))


def chance(probability: float, *purpose: str | int) -> bool:
    """True with a probability, for a purpose."""
    return bool(torch.rand(1, generator=seeded_generator(*purpose)) < probability)
