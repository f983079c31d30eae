"""Stable Diffusion's safety checker: flags pictures near the concepts that its publishers hold unsafe."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion import safety_checker as published
from safetensors import SafetensorError
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from faceid_core.errors import MissingWeights
from faceid_core.weights.catalog import VERSIONS

_BATCH = 16


class StableDiffusionSafety:
    """The checker that Stable Diffusion 1.x ships with, as a judge: pictures stay as they were drawn."""

    name = "stable-diffusion-safety-checker"
    version = str(VERSIONS["safety_checker"])

    def __init__(self, model: published.StableDiffusionSafetyChecker, processor: CLIPImageProcessorPil):
        self._model, self._processor = model, processor

    def flags(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Whether each picture uint8 [h, w, 3] is flagged, bool [n]."""
        found = np.zeros(len(images), bool)
        for start in range(0, len(images), _BATCH):
            batch = list(images[start : start + _BATCH])
            pixels = self._processor(batch, return_tensors="pt")["pixel_values"]  # [n, 3, 224, 224]
            # The model paints flagged pictures black; these stand for them.
            stand_ins = [np.ones(1) for _ in batch]
            with _without_its_warning():
                _, flagged = self._model(clip_input=pixels.to(self._model.device), images=stand_ins)
            found[start : start + len(batch)] = flagged
        return found


@contextmanager
def _without_its_warning() -> Generator[None]:
    """The checker says of each flagged picture that a black one is returned, which is not so here."""
    published.logger.disabled, before = True, published.logger.disabled
    try:
        yield
    finally:
        published.logger.disabled = before


def load_safety_checker(files: Sequence[Path], *, device: str = "cpu") -> StableDiffusionSafety:
    """The checker in float32.

    Args:
        files: config.json, model.safetensors and preprocessor_config.json, all in one folder.
        device: where it computes.

    Raises:
        MissingWeights: a file is not what it says, or lies elsewhere than the others.
    """
    folder = files[0].parent
    apart = next((file for file in files if file.parent != folder), None)
    if apart is not None:
        raise MissingWeights(f"safety checker: {apart} belongs into {folder}, beside {files[0].name}")
    try:
        model = published.StableDiffusionSafetyChecker.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, torch_dtype=torch.float32
        )
        # Pillow's, on every machine: torchvision's resampling gives other pixels.
        processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise MissingWeights(f"safety checker: the files in {folder} cannot be loaded: {error}") from error
    return StableDiffusionSafety(model.requires_grad_(False).eval().to(device), processor)
