"""Stable Diffusion 1.5 at full width, random weights: a training step on a CPU, sample by sample, fits in 20 GB."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

_STEP = """
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
from faceid_core.diffusion.base import load_base_model
from faceid_core.config.presets import PRESETS
from faceid_core.personalize.trainer import personalize
from tests.helpers.architectures import clip_tokenizer
from tests.helpers.tiny_people import tiny_photo

folder = {folder!r}
blocks = ["CrossAttnDownBlock2D"] * 3
StableDiffusionPipeline(
    vae=AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4, sample_size=512,
    ),
    text_encoder=CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        max_position_embeddings=77, projection_dim=768, bos_token_id=0, eos_token_id=2,
    )),
    tokenizer=clip_tokenizer(),
    unet=UNet2DConditionModel(
        sample_size=64, in_channels=4, out_channels=4, layers_per_block=2, cross_attention_dim=768,
        block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8,
        down_block_types=(*blocks, "DownBlock2D"), up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    ),
    scheduler=PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1,
                            skip_prk_steps=True, set_alpha_to_one=False),
    safety_checker=None, feature_extractor=None, requires_safety_checker=False,
).save_pretrained(folder)
base = load_base_model(folder)
assert base.description.resolution == 512 and sum(p.numel() for p in base.unet.parameters()) > 850e6
method = PRESETS["semantic-fidelity"].model_copy(update=dict(steps=1, samples_per_step=5))
(result,) = personalize(base, [tiny_photo(1)], method, slots=1, samples_at_once=1)
assert result.curve and result.tokens.tensors["text_encoder"].shape == (5, 2, 2, 768)
print(result.curve[0]["loss_diffusion"], result.seconds)
"""


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_a_step_at_full_width_fits_in_20_gb(tmp_path):
    code = _STEP.format(folder=str(tmp_path / "sd15"))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # bytes
    assert peak < 20e9, f"{peak / 1e9:.1f} GB"
