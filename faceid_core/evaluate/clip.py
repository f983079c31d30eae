"""CLIP as image-text scorer and picture embedder, from a folder in the layout of transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import CLIPModel, CLIPTextConfig, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import logging as transformers_logging

from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.weights.catalog import VERSIONS

# Patch side of the vision tower by CLIP's name: tells the two models apart by their configuration.
PATCHES = {"ViT-B/32": 32, "ViT-L/14": 14}
_BATCH = 32


class ClipScorer:
    """Cosine of a picture's and its text's projected embeddings, the score that papers call CLIP-T.

    Unscaled: between -1 and 1, in practice about 0.15 to 0.40. Not comparable between two CLIP models.
    """

    version = str(VERSIONS["clip"])

    def __init__(
        self, name: str, model: CLIPModel, tokenizer: CLIPTokenizer, processor: CLIPImageProcessorPil
    ):
        self.name = f"clip-{name}"
        self._model, self._tokenizer, self._processor = model, tokenizer, processor

    def score(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """See `ImageTextScorer`; a text longer than the model's context is cut off at its end."""
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} pictures, {len(texts)} texts: score takes one text a picture")
        if not len(images):
            return np.empty(0, np.float32)
        different = list(dict.fromkeys(texts))
        vectors = dict(zip(different, self.embed_texts(different), strict=True))
        return (self.embed_images(images) * np.stack([vectors[text] for text in texts])).sum(1)

    @torch.no_grad()
    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """See `PictureEmbedder`; the processor resizes and cuts out the middle as the model was trained."""
        found = []
        for start in range(0, len(images), _BATCH):
            batch = list(images[start : start + _BATCH])
            pixels = self._processor(batch, return_tensors="pt")["pixel_values"]  # [n, 3, side, side]
            found.append(self._model.get_image_features(pixel_values=pixels.to(self._model.device)))
        return self._unit(found)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [n, d] of texts."""
        found = []
        for start in range(0, len(texts), _BATCH):
            tokens = self._tokenizer(
                list(texts[start : start + _BATCH]),
                padding="max_length",
                truncation=True,
                return_tensors="pt",
            ).to(self._model.device)
            found.append(self._model.get_text_features(**tokens))
        return self._unit(found)

    def _unit(self, found: list) -> np.ndarray:
        if not found:
            return np.empty((0, int(self._model.config.projection_dim or 0)), np.float32)
        vectors = torch.cat([each.pooler_output for each in found]).float()  # [n, d]
        return torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy()


def load_clip(name: str, folder: str | Path, *, device: str = "cpu") -> ClipScorer:
    """A CLIP model in float32, from a folder; nothing is downloaded.

    Args:
        name: of `PATCHES`.
        folder: with config.json, model.safetensors, the tokenizer's and the preprocessor's files.

    Raises:
        MissingWeights: a file is not there, or is not what it says.
        ConfigurationError: the folder holds another model than the name says.
    """
    folder = Path(folder)
    _check(name, folder)
    shows_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model = CLIPModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, torch_dtype=torch.float32
        )
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        # Pillow's, on every machine: torchvision's resampling gives other pixels.
        processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise MissingWeights(f"CLIP {name}: the files in {folder} cannot be loaded: {error}") from error
    finally:
        if shows_bars:
            transformers_logging.enable_progress_bar()
    # The folder of a model that was saved apart from its tokenizer may leave its length open.
    tokenizer.model_max_length = cast(CLIPTextConfig, model.config.text_config).max_position_embeddings
    return ClipScorer(name, model.requires_grad_(False).eval().to(device), tokenizer, processor)


def _check(name: str, folder: Path) -> None:
    try:
        config = json.loads((folder / "config.json").read_bytes())
        patch = config["vision_config"].get("patch_size", PATCHES["ViT-B/32"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise MissingWeights(f"CLIP {name}: no usable config.json in {folder}: {error}") from error
    if patch != PATCHES[name]:
        raise ConfigurationError(
            f"CLIP {name} has patches of {PATCHES[name]} pixels, the model in {folder} of {patch}; "
            "put the right one there"
        )
