"""Sampling: diffusers' schedulers by name, the initial noise of a seed, and the guided denoising loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import diffusers
import torch

from faceid_core.diffusion.base import BaseModel
from faceid_core.errors import ConfigurationError
from faceid_core.personalize.attention import AttentionRecorder, ProjectedContexts, StagedUNet, picture_sizes
from faceid_core.personalize.seeded_draws import normal, seed_of, seeded_generator


def make_scheduler(name: str, config: Mapping[str, Any], steps: int) -> Any:
    """A diffusers scheduler set up from the base model's own scheduler configuration.

    Raises:
        ConfigurationError: diffusers has no such sampler, or the number of steps does not suit it.
    """
    kind = getattr(diffusers, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, diffusers.SchedulerMixin)):
        raise ConfigurationError(
            f"diffusers has no sampler {name!r}; "
            "use for instance DDIMScheduler or DPMSolverMultistepScheduler"
        )
    try:
        scheduler = kind.from_config(dict(config))
        scheduler.set_timesteps(steps)
    # What diffusers' schedulers raise for settings that they do not support: ImportError for sigmas that need scipy,
    # TypeError and NotImplementedError for options that another scheduler's configuration brings.
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        raise ConfigurationError(
            f"sampler {name} cannot do {steps} steps with this base model: {error}"
        ) from error
    return scheduler


def initial_noise(seed: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """Standard normal noise [channels, height, width] of a seed: the same for every subject and prompt."""
    return normal(shape, *_noise_purpose(seed, shape))


def noise_seed(seed: int, shape: tuple[int, int, int]) -> int:
    """The seed with which a torch generator on the CPU gives `initial_noise` of a seed, for use in other programs."""
    return seed_of(*_noise_purpose(seed, shape))


def _noise_purpose(seed: int, shape: tuple[int, int, int]) -> tuple[str | int, ...]:
    return "picture", seed, *shape


@torch.no_grad()
def denoise(
    base: BaseModel,
    staged: StagedUNet,
    scheduler: Any,
    projected: ProjectedContexts,
    rows: Mapping[float, torch.Tensor],
    seeds: Sequence[int],
    *,
    guidance_scale: float,
    recorder: AttentionRecorder | None,
    size: tuple[int, int] | None = None,
    on_step: Callable[[], object] = lambda: None,
) -> torch.Tensor:
    """Draw latents from noise with classifier-free guidance.

    Args:
        scheduler: from `make_scheduler`, fresh: several samplers remember earlier steps.
        projected: all contexts in use.
        rows: timestep -> int64 [n], or [2 n] with guidance, unconditional ones first: each sample's context.
        seeds: n seeds of the initial noise.
        guidance_scale: of classifier-free guidance; 1 or less draws without the unconditional half.
        recorder: of the conditional samples' attention.
        size: height and width of the pictures in pixels; None for the base model's own.
        on_step: called after every step.

    Returns:
        float32 [n, channels, height, width] of the latents.

    Source: prediction = unconditional + guidance * (conditional - unconditional), Ho and Salimans 2022.
    """
    shape = base.description.latent_shape_of(size)
    noise = torch.stack([initial_noise(seed, shape) for seed in seeds]).to(base.device)
    latents = noise * scheduler.init_noise_sigma  # [n, channels, height, width]
    extra: dict[str, Any] = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        # Samplers that add noise at each step draw each picture's from its own generator.
        extra["generator"] = [seeded_generator("sampler", seed) for seed in seeds]
    guided = guidance_scale > 1
    sizes = None if size is None else torch.tensor([picture_sizes(size)])
    for timestep in scheduler.timesteps:
        doubled = torch.cat([latents, latents]) if guided else latents
        inputs = scheduler.scale_model_input(doubled, timestep).to(base.dtype)
        prediction = staged.predict(
            inputs,
            timestep.to(base.device).expand(len(inputs)),
            projected,
            rows[float(timestep)],
            recorders=(recorder,) if recorder else (),
            sizes=None if sizes is None else sizes.expand(len(inputs), -1),
        ).float()
        if guided:
            unconditional, conditional = prediction.chunk(2)
            prediction = unconditional + guidance_scale * (conditional - unconditional)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False, **extra)[0]
        on_step()
    return latents
