"""Writes a CLIP folder in the real layout with small random weights: what a scorer's loading code meets."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.helpers.tiny_pipeline import words_and_merges


def write_tiny_clip(folder: Path, *, patch: int = 32, seed: int = 0) -> Path:
    """Write config.json, model.safetensors, vocab.json, merges.txt and preprocessor_config.json.

    Pictures are read at CLIP's 224 pixels in patches of `patch`; towers are 32 wide and two layers deep.
    """
    torch.manual_seed(seed)
    vocabulary, merges = words_and_merges()
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": len(vocabulary) - 1, "pad_token_id": len(vocabulary) - 1}
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 77, **common, **ends}
    config = CLIPConfig(
        text_config=text, vision_config={"patch_size": patch, "image_size": 224, **common}, projection_dim=16
    )
    model = CLIPModel(config)
    torch.nn.init.normal_(model.text_model.get_input_embeddings().weight, std=0.5)
    model.save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    folder = Path(folder)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n"
    )
    return folder
