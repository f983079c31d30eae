"""Writes a safety checker in the real layout with small random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil


def write_tiny_safety_checker(folder: Path, *, threshold: float, seed: int = 0) -> Path:
    """Write config.json, model.safetensors and preprocessor_config.json.

    Args:
        threshold: cosine to a concept above which a picture is flagged: -1 flags all, 1 none.
    """
    torch.manual_seed(seed)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(vision_config={"patch_size": 32, "image_size": 224, **tower}, projection_dim=16)
    model = StableDiffusionSafetyChecker(config)
    torch.nn.init.normal_(model.concept_embeds)
    torch.nn.init.constant_(model.concept_embeds_weights, threshold)
    model.save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return folder
