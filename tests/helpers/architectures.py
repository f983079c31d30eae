"""Writes folders of Stable Diffusion 1.5, 2.1 and XL at full layout: small widths, random weights, real tokenizer.

Blocks, layers, transformer depths and numbers of heads are the published models'; widths and pictures are small. The
vocabulary is CLIP's own (`clip_vocabulary/`, MIT license, OpenAI).
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

_VOCABULARY = Path(__file__).parent / "clip_vocabulary" / "bpe_simple_vocab_16e6.txt.gz"
_SIDE = 8  # of latents; pictures of 64 pixels
_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
KINDS = ("sd15", "sd21", "sdxl")


def write_architecture(folder: Path, kind: str, *, prediction_type: str | None = None, seed: int = 0) -> Path:
    """Write a pipeline's folder.

    Args:
        kind: one of `KINDS`.
        prediction_type: None for the kind's usual one (v_prediction for sd21, else epsilon).
    """
    torch.manual_seed(seed)
    make = {"sd15": _sd15, "sd21": _sd21, "sdxl": _sdxl}[kind]
    make(prediction_type).save_pretrained(folder)
    return Path(folder)


def _sd15(prediction_type: str | None) -> diffusers.StableDiffusionPipeline:
    unet = _unet(
        block_out_channels=(32, 64, 64, 64),
        down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        attention_head_dim=8,
        cross_attention_dim=48,
    )
    scheduler = diffusers.PNDMScheduler(
        **_BETAS, skip_prk_steps=True, set_alpha_to_one=False, prediction_type=prediction_type or "epsilon"
    )
    text = _text(48, heads=12, layers=12, act="quick_gelu")
    return _stable_diffusion(unet, text, clip_tokenizer(), scheduler)


def _sd21(prediction_type: str | None) -> diffusers.StableDiffusionPipeline:
    unet = _unet(
        block_out_channels=(20, 40, 80, 80),
        down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        attention_head_dim=[5, 10, 20, 20],
        cross_attention_dim=32,
        use_linear_projection=True,
        upcast_attention=True,
        norm_num_groups=4,
    )
    scheduler = diffusers.DDIMScheduler(
        **_BETAS,
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type=prediction_type or "v_prediction",
    )
    text = _text(32, heads=16, layers=23, act="gelu")
    return _stable_diffusion(unet, text, clip_tokenizer(pad="!"), scheduler)


def _sdxl(prediction_type: str | None) -> diffusers.StableDiffusionXLPipeline:
    unet = _unet(
        block_out_channels=(20, 40, 80),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=[5, 10, 20],
        transformer_layers_per_block=[1, 2, 10],
        cross_attention_dim=24 + 40,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=40 + 6 * 8,
        norm_num_groups=4,
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        **_BETAS, timestep_spacing="leading", prediction_type=prediction_type or "epsilon"
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025, force_upcast=True),
        text_encoder=_text(24, heads=12, layers=12, act="quick_gelu"),
        text_encoder_2=_text(40, heads=20, layers=32, act="gelu", kind=CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(pad="!"),
        unet=unet,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def _stable_diffusion(unet, text, tokenizer, scheduler) -> diffusers.StableDiffusionPipeline:
    return diffusers.StableDiffusionPipeline(
        vae=_vae(scaling_factor=0.18215),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _unet(**layout) -> UNet2DConditionModel:
    made = UNet2DConditionModel(
        sample_size=_SIDE, in_channels=4, out_channels=4, layers_per_block=2, **layout
    )
    for name, weight in made.named_parameters():
        # Sharper attention than random weights give, so that the prompt matters.
        if ".attn2.to_q" in name or ".attn2.to_k" in name:
            weight.data.mul_(3)
    return made


def _vae(**layout) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=8 * _SIDE,
        **layout,
    )


def _text(width: int, *, heads: int, layers: int, act: str, kind: type = CLIPTextModel):
    made = kind(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=77,
            projection_dim=width,
            hidden_act=act,
            bos_token_id=0,
            eos_token_id=2,  # as in the published models, whose configuration is older than the right number
        )
    )
    # Transformers starts embeddings so small that a prompt would hardly matter.
    torch.nn.init.normal_(made.get_input_embeddings().weight, std=0.5)
    return made


@cache
def clip_tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's tokenizer, 49,408 tokens, contexts of 77."""
    lines = gzip.decompress(_VOCABULARY.read_bytes()).decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    letters = _byte_letters()
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: number for number, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=merges, pad_token=pad, model_max_length=77)


def _byte_letters() -> list[str]:
    """The printable letters that stand for the 256 bytes, in the vocabulary's order."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) for byte in kept] + [chr(256 + number) for number in range(len(others))]
