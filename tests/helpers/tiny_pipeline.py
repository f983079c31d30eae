"""Writes a tiny Stable Diffusion folder with random weights and a small CLIP tokenizer of its own."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

_WORDS = ("a", "photo", "of", "the", "face", "person", "man", "woman", "on", "beach", "wearing", "red", "hat")


def write_tiny_pipeline(folder: Path, *, prediction_type: str = "v_prediction", seed: int = 0) -> Path:
    """Write a StableDiffusionPipeline folder: 32 x 32 pictures, [5, 8, 8] latents, contexts [16, 32].

    The attention maps have sides 8 and 4. Weights are random but fixed by the seed.
    """
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            projection_dim=32,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # Transformers starts embeddings so small that a prompt would hardly matter.
    torch.nn.init.normal_(text_encoder.get_input_embeddings().weight, std=0.5)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=5,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.7,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=5,
        out_channels=5,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    for name, weight in unet.named_parameters():
        # Sharper attention than random weights give: maps differ, gradients are not lost in rounding.
        if ".attn2.to_q" in name or ".attn2.to_k" in name:
            weight.data.mul_(3)
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return Path(folder)


def _tokenizer() -> CLIPTokenizer:
    vocabulary, merges = words_and_merges()
    ids = {token: number for number, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=16)


def words_and_merges() -> tuple[list[str], list[tuple[str, str]]]:
    """Of a byte-pair tokenizer whose merges make each listed word one token; other words fall into letters."""
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = ["<|startoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        left = word[0]
        for position, letter in enumerate(word[1:], start=1):
            right = letter + ("</w>" if position == len(word) - 1 else "")
            if (left, right) not in merges:
                merges.append((left, right))
            left += right
            if left not in vocabulary:
                vocabulary.append(left)
    vocabulary.append("<|endoftext|>")
    return vocabulary, merges
