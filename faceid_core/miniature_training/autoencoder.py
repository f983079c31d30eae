"""Trains the autoencoder: 64 x 64 pictures to 16 x 16 latents and back."""

import time
from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL

from faceid_core.miniature_training.dataset import Pictures, render_pictures
from faceid_core.miniature_training.pipeline_folder import PIPELINE
from faceid_core.miniature_training.schedules import (
    Average,
    Budget,
    autocast,
    load_checkpoint,
    rate_at,
    save_checkpoint,
)

LATENT_CHANNELS = 6
# Weight of a pixel in the loss by its label: eyes, brows and mouth carry the identity and have few pixels.
_LABEL_WEIGHTS = (1.0, 2.0, 2.0, 5.0, 4.0, 7.0, 1.0, 1.0, 3.0, 1.5, 1.0)
FACE_LABELS = (1, 2, 3, 4, 5, 8)
# A half figure's face has a third of a close-up's pixels; its weight is raised by up to this factor.
_SMALL_FACE_LIMIT = 3.0
_CLOSE_UP_SHARE = 0.45
# The weight of edges rises over this share of the budget: at first it would reward a flat picture.
_EDGE_RAMP = 0.15
# Only keeps the latents from drifting: from 1e-4 on they collapsed in the first steps.
_KL_WEIGHT = 1e-6
# Standard deviation of the noise in the latents; a learned one grew until the latents carried nothing.
_NOISE = 0.05


def new_autoencoder() -> AutoencoderKL:
    """An untrained AutoencoderKL that shrinks each side four times."""
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )
    # Start with little noise in the latents: from the usual 1 they carry nothing for a long time.
    with torch.no_grad():
        model.quant_conv.weight[LATENT_CHANNELS:] *= 0.1
        model.quant_conv.bias[LATENT_CHANNELS:] = -6.0
    return model


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Bytes [N, H, W, 3] to floats in [-1, 1], [N, 3, H, W], channels last in memory."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def to_images(pixels: torch.Tensor) -> np.ndarray:
    """Floats in [-1, 1], [N, 3, H, W], to bytes [N, H, W, 3]."""
    return pixels.float().clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()


def reconstruction_loss(
    drawn: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, edge_weight: float
) -> torch.Tensor:
    """Weighted L1 of pixels plus weighted L1 of their differences to the right and downward.

    Args:
        drawn, target: [B, 3, H, W] in [-1, 1].
        weight: [B, 1, H, W].
        edge_weight: of the differences beside the pixels.
    """
    error = drawn - target  # differences are linear, so these are the errors of the edges
    pixels = (error.abs() * weight).mean()
    right = ((error[..., 1:] - error[..., :-1]).abs() * weight[..., 1:]).mean()
    down = ((error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]).mean()
    return pixels + edge_weight * (right + down)


def pixel_weights(labels: torch.Tensor) -> torch.Tensor:
    """Weight of every pixel in the loss, [B, 1, H, W], from labels int64 [B, H, W]."""
    weight = torch.tensor(_LABEL_WEIGHTS)[labels]
    is_face = torch.isin(labels, torch.tensor(FACE_LABELS))
    share = is_face.float().mean(dim=(1, 2), keepdim=True)  # [B, 1, 1]
    factor = (_CLOSE_UP_SHARE / share.clamp(min=1e-3)).clamp(1.0, _SMALL_FACE_LIMIT)
    return torch.where(is_face, weight * factor, weight)[:, None]


def _round_trip(model: AutoencoderKL, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstructions of `pixels` [B, 3, H, W] through noisy latents, and the mean KL divergence."""
    posterior = model.encode(pixels).latent_dist
    mean, log_variance = posterior.mean, posterior.logvar.float()
    drawn = model.decode(mean + _NOISE * torch.randn_like(mean)).sample
    kl = 0.5 * (mean.float() ** 2 + log_variance.exp() - 1 - log_variance).mean()
    return drawn.float(), kl


def _fit(
    model: AutoencoderKL,
    data: Pictures,
    *,
    minutes: float,
    peak_rate: float,
    hold: float,
    edge_ramp: float,
    batch: int,
    save: Callable[[dict[str, torch.Tensor]], object],
) -> None:
    """Train the parameters of `model` that require a gradient; `save` gets the averaged state every minute."""
    average = Average(model, 0.998)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    generator = np.random.default_rng(len(data.images))
    budget, step, running = Budget(minutes), 0, []
    last_report = time.monotonic()
    while budget.progress < 1:
        chosen = generator.integers(0, len(data.images), batch)
        target = to_tensor(data.images[chosen])  # [B, 3, 64, 64]
        weight = pixel_weights(torch.from_numpy(data.labels[chosen]).long())  # [B, 1, 64, 64]
        for group in optimizer.param_groups:
            group["lr"] = rate_at(budget.progress, step, peak=peak_rate, warm_up_steps=20, hold=hold)
        with autocast(torch.device("cpu")):
            drawn, kl = _round_trip(model, target)
        edge_weight = min(1.0, budget.progress / edge_ramp)
        loss = reconstruction_loss(drawn, target, weight, edge_weight) + _KL_WEIGHT * kl
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)
        step += 1
        running.append((drawn.detach() - target).abs().mean().item())
        if time.monotonic() - last_report > 60:
            minute = budget.elapsed_seconds / 60
            print(f"{minute:5.1f} min, step {step}: L1 {np.mean(running):.4f} of a range of 2", flush=True)
            save(average.state(model))
            last_report, running = time.monotonic(), []
    save(average.state(model))
    print(f"{step} steps of {batch} in {budget.elapsed_seconds / 60:.1f} min", flush=True)


def train_autoencoder(
    *, minutes: float, resume: bool, pictures: int = 25_000, batch: int = 16, seed: int = 11
) -> None:
    """Train for a time, write the checkpoint `autoencoder`, and put it into the pipeline folder.

    Args:
        minutes: wall-clock budget of the phase, rendering not counted.
        resume: start from the checkpoint, with a fresh optimizer.
        pictures: how many are rendered once and held in memory.
    """
    torch.manual_seed(seed)
    model = new_autoencoder().to(memory_format=torch.channels_last)
    if resume:
        model.load_state_dict(load_checkpoint("autoencoder"))
    data = render_pictures(pictures, seed=seed, named_share=0.3, extras_share=0.04)
    _fit(
        model,
        data,
        minutes=minutes,
        peak_rate=2e-3,
        hold=0.4,
        edge_ramp=1e-9 if resume else _EDGE_RAMP,
        batch=batch,
        save=lambda state: save_checkpoint(state, "autoencoder"),
    )
    model.load_state_dict(load_checkpoint("autoencoder"))
    model.eval()
    normalize_latents(model, data.images[:2000])
    model.register_to_config(scaling_factor=1.0)
    model.half().save_pretrained(PIPELINE / "vae", safe_serialization=True)


def train_decoder(
    *, minutes: float, resume: bool, pictures: int = 25_000, batch: int = 16, seed: int = 12
) -> None:
    """Train the pipeline folder's decoder further, and nothing else.

    The latents do not change, so a U-Net trained on them stays valid.

    Args:
        minutes: wall-clock budget of the phase, rendering not counted.
        resume: start from the checkpoint `decoder`, not from the pipeline folder.
        pictures: how many are rendered once and held in memory.
    """
    torch.manual_seed(seed)
    model = AutoencoderKL.from_pretrained(PIPELINE / "vae").to(memory_format=torch.channels_last)
    if resume:
        model.load_state_dict(load_checkpoint("decoder"))
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)
    if resume:
        seed += int(time.time()) % 100_000  # other pictures than the phase before
    data = render_pictures(pictures, seed=seed, named_share=0.3, extras_share=0.04)
    _fit(
        model,
        data,
        minutes=minutes,
        peak_rate=1e-3,
        hold=0.3,
        edge_ramp=1e-9,
        batch=batch,
        save=lambda state: save_checkpoint(state, "decoder"),
    )
    model.load_state_dict(load_checkpoint("decoder"))
    model.half().save_pretrained(PIPELINE / "vae", safe_serialization=True)


@torch.no_grad()
def normalize_latents(model: AutoencoderKL, images: np.ndarray) -> None:
    """Give each channel of the latents of `images` (uint8 [N, H, W, 3]) mean 0 and spread 1.

    Shift and scale go into the 1 x 1 convolutions around the latents, so reconstructions do not change.
    """
    parts = [
        model.encode(to_tensor(part)).latent_dist.mean
        for part in np.array_split(images, max(1, len(images) // 50))
    ]
    latents = torch.cat(parts)  # [N, C, h, w]
    mean, spread = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    channels = len(mean)
    before, after = model.quant_conv, model.post_quant_conv
    before.bias[:channels] = (before.bias[:channels] - mean) / spread
    before.weight[:channels] /= spread[:, None, None, None]
    before.bias[channels:] -= 2 * spread.log()  # log variances
    after.bias += (after.weight[:, :, 0, 0] * mean).sum(dim=1)
    after.weight *= spread[None, :, None, None]
