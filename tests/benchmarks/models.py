"""What several benchmarks compute with: base models, training photos, a learned person."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from faceid_core.config.method import Method
from faceid_core.config.presets import PRESETS
from faceid_core.diffusion.base import BaseModel, load_base_model
from faceid_core.miniature.samples import portrait
from faceid_core.personalize.slots import TrainingPhoto
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.personalize.trainer import personalize
from faceid_core.weights.describe import MINIATURE, source_folder

from .settings import FIRST_SEED, Place, Settings


def load(place: Place, settings: Settings) -> BaseModel:
    """The base model of a place, with the run's number of threads."""
    import torch

    torch.set_num_threads(settings.threads)
    return load_base_model(place.base, device=place.device, precision=place.precision, digest="benchmark")


def method(preset: str, **changes) -> Method:
    """A preset with changes."""
    return Method.model_validate(PRESETS[preset].model_dump() | changes)


def training_photos(base: BaseModel, count: int) -> list[TrainingPhoto]:
    """Rendered people at the base model's resolution; the mask is a disc, for only speed is asked of them."""
    side = base.description.resolution
    y, x = np.mgrid[:side, :side] / side - 0.5
    mask = (x**2 + y**2 < 0.1).astype(np.float32)
    return [
        TrainingPhoto(
            name=f"person-{number}",
            photo_digest=f"{number:064x}",
            image=portrait(FIRST_SEED + number, pixels=side),
            mask=mask,
            valid=np.ones((side, side), bool),
        )
        for number in range(count)
    ]


def somebody(base: BaseModel) -> IdentityTokens:
    """A person's tokens of the default preset's shape, after two steps: for drawing at the usual cost."""
    # Names of a Stable Diffusion with random weights tell nothing, so the published start stands in there.
    preset = "semantic-fidelity" if base.description.name == MINIATURE else "semantic-fidelity-as-published"
    brief = method(preset, steps=2, samples_per_step=2)
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


def stable_diffusion_15(folder: Path) -> Path:
    """Write Stable Diffusion 1.5's architecture with random weights, which do the same arithmetic.

    The tokenizer is the miniature's with contexts of 77 tokens: its vocabulary, and so the table of embeddings that
    the published script's optimizer goes over at every step, is smaller than CLIP's. That favors the script.
    """
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(source_folder(MINIATURE) / "tokenizer", model_max_length=77)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=77,
            projection_dim=768,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    pipeline = StableDiffusionPipeline(
        vae=autoencoder_15(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet_15(),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder
