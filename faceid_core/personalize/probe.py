"""Where a person's tokens look: attention maps on the noised photo, taken alike before and after training."""

from __future__ import annotations

import torch

from faceid_core.diffusion.base import BaseModel

from .attention import StagedUNet
from .contexts import Contexts
from .losses import noised
from .observers import Recording
from .random import normal
from .stages import stage_of

# Noise levels at which the maps are taken, as shares of the training timesteps: the same for every method.
_LEVELS = (0.125, 0.375, 0.625, 0.875)


@torch.no_grad()
def photo_attention(
    base: BaseModel,
    staged: StagedUNet,
    contexts: Contexts,
    positions: torch.Tensor,
    boundaries: tuple[int, ...],
    latent: torch.Tensor,
    photo_digest: str,
) -> torch.Tensor:
    """Attention on the person's positions over the photo, averaged over heads, layers and four noise levels.

    Args:
        contexts: [stages, sides (K, V, or one for both), length, context width] of the training prompt.
        positions: int64 [vectors], the person's positions in the context; their attention is added up.
        boundaries: of the stages.
        latent: [c, side, side] of the photo.
        photo_digest: settles the noise.

    Returns:
        float32 [s, s] on the CPU, s the side of the largest attention map.
    """
    total = base.description.training_timesteps
    timesteps = torch.tensor([int(level * total) for level in _LEVELS])
    rows = torch.tensor([stage_of(int(timestep), boundaries) for timestep in timesteps])
    noise = torch.stack([normal(tuple(latent.shape), photo_digest, "probe", int(t)) for t in timesteps])
    alpha_bar = base.alphas_cumprod[timesteps].to(base.device)
    noisy = noised(latent.expand(len(timesteps), -1, -1, -1), noise.to(base.device), alpha_bar)
    columns = torch.zeros(len(timesteps), contexts.states.shape[2], device=base.device)
    columns[:, positions] = 1
    recording = Recording(columns)
    staged.predict(
        noisy.to(base.dtype),
        timesteps.to(base.device),
        staged.project_sides(contexts),
        rows.to(base.device),
        observers=(recording,),
    )
    return recording.maps().mean(dim=0).cpu()
