"""Timestep stages: the diffusion process cut into consecutive pieces, each with its own token vectors.

Stages are numbered from 0 (least noise); the paper's i is this number plus one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from faceid_core.errors import ConfigurationError


def stage_boundaries(stages: int, timesteps: int, chosen: Sequence[int] | None = None) -> tuple[int, ...]:
    """The timesteps at which a new stage begins.

    Args:
        stages: number of stages.
        timesteps: number of training timesteps T of the base model.
        chosen: boundaries from the configuration; None cuts evenly, i = floor(stages * t / T).

    Returns:
        The stages - 1 inner boundaries, rising: stage s holds boundaries[s-1] <= t < boundaries[s].

    Raises:
        ConfigurationError: the chosen boundaries do not fit.

    Source: five stages, paper abstract; even cuts, reconstruction.
    """
    if chosen is None:
        if stages > timesteps:
            raise ConfigurationError(f"{stages} stages do not fit into {timesteps} training timesteps")
        return tuple(-(-stage * timesteps // stages) for stage in range(1, stages))
    inner = tuple(chosen)
    edges = (0, *inner, timesteps)
    if len(inner) != stages - 1 or any(low >= high for low, high in pairwise(edges)):
        raise ConfigurationError(
            f"boundaries {list(inner)} do not cut {timesteps} timesteps into {stages} stages; "
            f"give {stages - 1} rising numbers from 1 to {timesteps - 1}, or leave them out for even stages"
        )
    return inner


def stage_of(timestep: float, boundaries: Sequence[int]) -> int:
    """The stage, from 0, that a training timestep belongs to; samplers may ask for fractions."""
    return bisect_right(boundaries, timestep)


def stage_range(stage: int, boundaries: Sequence[int], timesteps: int) -> tuple[int, int]:
    """The half-open range of training timesteps of a stage."""
    edges = (0, *boundaries, timesteps)
    return edges[stage], edges[stage + 1]
