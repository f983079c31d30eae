"""The parts of a base model from its files: a folder in diffusers' layout, or a single checkpoint beside one."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from faceid_core.errors import MissingWeights
from faceid_core.weights.base_model import BaseFiles
from faceid_core.weights.describe import POOLING, Description, weights_variant

from .token_count import require_tokenizer


@dataclass(frozen=True)
class Parts:
    """What a base model is made of, on the CPU.

    Attributes:
        vae: in float32 whatever the precision: half precision overflows in the VAEs whose `force_upcast` says so.
        encoders: text encoder -> model.
        tokenizers: text encoder -> tokenizer.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    encoders: Mapping[str, PreTrainedModel]
    tokenizers: Mapping[str, CLIPTokenizer]
    scheduler: DDPMScheduler


def load_parts(files: BaseFiles, about: Description, dtype: torch.dtype) -> Parts:
    """Load everything; the U-Net and the text encoders in `dtype`.

    Raises:
        MissingWeights: a file is not there, or is none of such a model; the text names it.
    """
    folder = files.folder
    tokenizers = {encoder: _tokenizer(folder / tokenizer) for encoder, tokenizer in about.encoders.items()}
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    with _no_bars():
        if files.checkpoint is not None:
            unet, vae, encoders = _from_checkpoint(files.checkpoint, folder, about, dtype)
        else:
            unet = _load(UNet2DConditionModel, folder, "unet", "diffusion_pytorch_model", dtype)
            vae = _load(AutoencoderKL, folder, "vae", "diffusion_pytorch_model", torch.float32)
            encoders = {
                name: _load(
                    CLIPTextModelWithProjection if name in POOLING else CLIPTextModel,
                    folder,
                    name,
                    "model",
                    dtype,
                )
                for name in about.encoders
            }
    return Parts(unet, vae, encoders, tokenizers, scheduler)


def _from_checkpoint(
    checkpoint: Path, folder: Path, about: Description, dtype: torch.dtype
) -> tuple[UNet2DConditionModel, AutoencoderKL, dict[str, PreTrainedModel]]:
    """U-Net, VAE and text encoders of a checkpoint in the original layout, which the folder's configurations describe."""
    kind = StableDiffusionXLPipeline if about.pooled_width else StableDiffusionPipeline
    try:
        pipe = kind.from_single_file(
            str(checkpoint), config=str(folder), local_files_only=True, torch_dtype=torch.float32
        )
    except Exception as error:  # diffusers raises whatever a missing key leads to
        raise MissingWeights(
            f"the checkpoint {checkpoint} cannot be loaded as the model that {folder} describes: "
            f"{str(error).partition(chr(10))[0]} Correct base_model.source or base_model.layout"
        ) from error
    unet, encoders = pipe.unet, {name: getattr(pipe, name) for name in about.encoders}
    if dtype != torch.float32:
        unet, encoders = unet.to(dtype), {name: each.to(dtype) for name, each in encoders.items()}
    return unet, pipe.vae, encoders


def _load(kind: Any, folder: Path, part: str, stem: str, dtype: torch.dtype) -> Any:
    variant = weights_variant(folder, part, stem)
    try:
        return kind.from_pretrained(
            folder / part, variant=variant, torch_dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise MissingWeights(f"the files in {folder / part} cannot be loaded: {error}") from error


def _tokenizer(folder: Path) -> CLIPTokenizer:
    require_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


@contextmanager
def _no_bars() -> Generator[None]:
    """Without the libraries' progress bars, which would stand among a run's own lines."""
    shown = [
        each
        for each in (transformers_logging, diffusers_logging)
        if getattr(each, "is_progress_bar_enabled", lambda: True)()
    ]
    for each in shown:
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each in shown:
            each.enable_progress_bar()
