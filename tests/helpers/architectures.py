"""Writes folders of Stable Diffusion 1.5, 2.1 and XL at full layout: random weights, real tokenizer.

Blocks, layers, transformer depths and numbers of heads are the published models'; widths and pictures are small, or the
published models' too, which take gigabytes. The vocabulary is CLIP's own (`clip_vocabulary/`, MIT license, OpenAI).
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

_VOCABULARY = Path(__file__).parent / "clip_vocabulary" / "bpe_simple_vocab_16e6.txt.gz"
_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


@dataclass(frozen=True)
class Widths:
    """What the small and the full model of a kind differ in.

    Attributes:
        side: of latents; pictures are eight times as large.
        blocks, vae_blocks: channels of the U-Net's blocks, and of the autoencoder's.
        groups, vae_groups: of their group norms.
        texts: width of each text encoder.
        feed_forward: a text encoder's feed-forward width, in its own widths.
        time_ids: width of each embedded size that XL's U-Net reads.
    """

    side: int
    blocks: tuple[int, ...]
    groups: int
    texts: tuple[int, ...]
    feed_forward: int
    vae_blocks: tuple[int, ...]
    vae_groups: int
    time_ids: int = 0


def _small(blocks: tuple[int, ...], groups: int, texts: tuple[int, ...], time_ids: int = 0) -> Widths:
    return Widths(8, blocks, groups, texts, 2, (8, 8, 16, 16), 4, time_ids)


def _full(side: int, blocks: tuple[int, ...], texts: tuple[int, ...], time_ids: int = 0) -> Widths:
    return Widths(side, blocks, 32, texts, 4, (128, 256, 512, 512), 32, time_ids)


SMALL = {
    "sd15": _small((32, 64, 64, 64), 32, (48,)),
    "sd21": _small((20, 40, 80, 80), 4, (32,)),
    "sdxl": _small((20, 40, 80), 4, (24, 40), 8),
}
FULL = {
    "sd15": _full(64, (320, 640, 1280, 1280), (768,)),
    "sd21": _full(96, (320, 640, 1280, 1280), (1024,)),
    "sdxl": _full(128, (320, 640, 1280), (768, 1280), 256),
}
KINDS = tuple(SMALL)


def write_architecture(
    folder: Path,
    kind: str,
    *,
    prediction_type: str | None = None,
    seed: int = 0,
    full_width: bool = False,
    device: str = "cpu",
    precision: torch.dtype = torch.float32,
) -> Path:
    """Write a pipeline's folder.

    Args:
        kind: one of `KINDS`.
        prediction_type: None for the kind's usual one (v_prediction for sd21, else epsilon).
        full_width: widths and pictures of the published model.
        device: where the weights are drawn; its generator decides which they are.
        precision: of the files.
    """
    torch.manual_seed(seed)
    make = {"sd15": _sd15, "sd21": _sd21, "sdxl": _sdxl}[kind]
    with torch.device(device):
        made = make(prediction_type, (FULL if full_width else SMALL)[kind])
    if precision != torch.float32:
        made.to(dtype=precision)
    made.save_pretrained(folder)
    return Path(folder)


def _sd15(prediction_type: str | None, widths: Widths) -> diffusers.StableDiffusionPipeline:
    unet = _unet(
        widths,
        down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        attention_head_dim=8,
    )
    scheduler = _scheduler(
        diffusers.PNDMScheduler, prediction_type or "epsilon", skip_prk_steps=True, set_alpha_to_one=False
    )
    text = _text(widths, 0, heads=12, layers=12, act="quick_gelu")
    return _stable_diffusion(widths, unet, text, clip_tokenizer(), scheduler)


def _sd21(prediction_type: str | None, widths: Widths) -> diffusers.StableDiffusionPipeline:
    unet = _unet(
        widths,
        down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        attention_head_dim=[5, 10, 20, 20],
        use_linear_projection=True,
        upcast_attention=True,
    )
    scheduler = _scheduler(
        diffusers.DDIMScheduler, prediction_type or "v_prediction", clip_sample=False, set_alpha_to_one=False
    )
    text = _text(widths, 0, heads=16, layers=23, act="gelu")
    return _stable_diffusion(widths, unet, text, clip_tokenizer(pad="!"), scheduler)


def _sdxl(prediction_type: str | None, widths: Widths) -> diffusers.StableDiffusionXLPipeline:
    unet = _unet(
        widths,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=[5, 10, 20],
        transformer_layers_per_block=[1, 2, 10],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=widths.time_ids,
        projection_class_embeddings_input_dim=widths.texts[1] + 6 * widths.time_ids,
    )
    scheduler = _scheduler(
        diffusers.EulerDiscreteScheduler, prediction_type or "epsilon", timestep_spacing="leading"
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(widths, scaling_factor=0.13025, force_upcast=True),
        text_encoder=_text(widths, 0, heads=12, layers=12, act="quick_gelu"),
        text_encoder_2=_text(widths, 1, heads=20, layers=32, act="gelu", kind=CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(pad="!"),
        unet=unet,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def _stable_diffusion(widths: Widths, unet, text, tokenizer, scheduler) -> diffusers.StableDiffusionPipeline:
    return diffusers.StableDiffusionPipeline(
        vae=_vae(widths, scaling_factor=0.18215),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _scheduler(kind: type, prediction_type: str, **settings):
    with torch.device("cpu"):  # schedulers compute with NumPy, whatever device weights are drawn on
        return kind(**_BETAS, prediction_type=prediction_type, **settings)


def _unet(widths: Widths, **layout) -> UNet2DConditionModel:
    made = UNet2DConditionModel(
        sample_size=widths.side,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=widths.blocks,
        norm_num_groups=widths.groups,
        cross_attention_dim=sum(widths.texts),
        **layout,
    )
    for name, weight in made.named_parameters():
        # Sharper attention than random weights give, so that the prompt matters.
        if ".attn2.to_q" in name or ".attn2.to_k" in name:
            weight.data.mul_(3)
    return made


def _vae(widths: Widths, **layout) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=widths.vae_blocks,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=widths.vae_groups,
        sample_size=8 * widths.side,
        **layout,
    )


def _text(widths: Widths, number: int, *, heads: int, layers: int, act: str, kind: type = CLIPTextModel):
    width = widths.texts[number]
    made = kind(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=width,
            intermediate_size=widths.feed_forward * width,
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
