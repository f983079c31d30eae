"""What several benchmarks compute with: base models, training photos, a learned person."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np

from faceid_core.config.method import Method
from faceid_core.config.presets import PRESETS
from faceid_core.diffusion.base import PRECISIONS, BaseModel, load_base_model
from faceid_core.miniature.samples import portrait
from faceid_core.personalize.slots import TrainingPhoto
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.personalize.trainer import personalize
from faceid_core.weights.describe import source_folder

from .settings import FIRST_SEED, Place, Settings

_PICTURES = 4


def load(place: Place, settings: Settings) -> BaseModel:
    """The base model of a place, with the run's number of threads."""
    import torch

    torch.set_num_threads(settings.threads)
    return load_base_model(place.base, device=place.device, precision=place.precision, digest="benchmark")


def diffusers_pipeline(place: Place) -> Any:
    """diffusers' own pipeline of a place's model, without a safety checker."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        source_folder(place.base), dtype=PRECISIONS[place.precision], local_files_only=True
    )
    if getattr(pipeline, "safety_checker", None) is not None:
        pipeline.safety_checker = None
    return pipeline.to(place.device)


def method(preset: str, **changes) -> Method:
    """A preset with changes."""
    return Method.model_validate(PRESETS[preset].model_dump() | changes)


def training_photos(base: BaseModel, count: int) -> list[TrainingPhoto]:
    """Rendered people at the base model's resolution; the mask is a disc, for only speed is asked of them.

    Few pictures serve many people: at 1024 pixels rendering one takes half a second.
    """
    side = base.description.resolution
    pictures = [portrait(FIRST_SEED + number, pixels=side) for number in range(min(count, _PICTURES))]
    y, x = np.mgrid[:side, :side] / side - 0.5
    mask = (x**2 + y**2 < 0.1).astype(np.float32)
    return [
        TrainingPhoto(
            name=f"person-{number}",
            photo_digest=f"{number:064x}",
            image=pictures[number % _PICTURES],
            mask=mask,
            valid=np.ones((side, side), bool),
        )
        for number in range(count)
    ]


def somebody(base: BaseModel) -> IdentityTokens:
    """A person's tokens of the default preset's shape, after two steps: for drawing at the usual cost."""
    brief = method("semantic-fidelity", steps=2, samples_per_step=2)
    return next(personalize(base, training_photos(base, 1), brief, slots=1)).tokens


def unet_15():
    """The U-Net of Stable Diffusion 1.5 with random weights, on PyTorch's default device."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def autoencoder_15():
    """The autoencoder of Stable Diffusion 1.5 with random weights, on PyTorch's default device."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
