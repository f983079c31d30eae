"""BaseModel: a frozen text-to-image network, taken apart into what personalization and drawing use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.nn import functional as F

from faceid_core.errors import ConfigurationError, UnusableWeights
from faceid_core.weights.base_model import BaseFiles, find_base
from faceid_core.weights.describe import MINIATURE, POOLING, Description, describe

from .cpu_attention import SelfAttention, needs_float32
from .parts import load_parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Network = TypeVar("Network", bound=torch.nn.Module)

_PIXELS_AT_ONCE = 2**21
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class TextTower:
    """One tokenizer with its text encoder.

    Attributes:
        name: "text_encoder", or "text_encoder_2".
        length: tokens in a context.
        width: width of token embeddings and of contexts.
        penultimate: contexts are the last but one hidden state, not the last.
        pools: the pooled text embedding is this encoder's.
    """

    name: str
    tokenizer: Any
    model: PreTrainedModel
    length: int
    width: int
    penultimate: bool = False
    pools: bool = False

    @property
    def token_embedding(self) -> torch.nn.Embedding:
        """The module that turns token ids into vectors."""
        return cast(torch.nn.Embedding, self.model.get_input_embeddings())

    def read(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Contexts [n, length, width] of token ids [n, length], and the pooled embedding [n, pooled width] if it pools.

        Source: SDXL's use of hidden states and of the projected end-of-text state, Podell et al. 2023, section 2.1, as
        in diffusers' StableDiffusionXLPipeline.encode_prompt.
        """
        if not self.penultimate:
            return self.model(input_ids=ids).last_hidden_state, None
        output = self.model(input_ids=ids, output_hidden_states=True)
        return output.hidden_states[-2], output.text_embeds if self.pools else None


@dataclass(frozen=True)
class BaseModel:
    """A frozen base model. No parameter of it requires a gradient.

    Attributes:
        towers: text encoder's name -> TextTower, in the order of concatenation.
        scheduler_config: the model's own scheduler configuration, from which samplers are made.
        alphas_cumprod: float32 [training timesteps], the noise schedule, on the CPU.
    """

    description: Description
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    towers: Mapping[str, TextTower]
    scheduler_config: Mapping[str, Any]
    alphas_cumprod: torch.Tensor
    device: torch.device
    dtype: torch.dtype

    @torch.no_grad()
    def encode_images(self, images: list[np.ndarray]) -> torch.Tensor:
        """Scaled latents of pictures: the mean of the VAE's posterior.

        Args:
            images: uint8 [h, w, 3] RGB each, square; another size than the model's is resampled.

        Returns:
            float32 [n, channels, side, side] on the model's device.
        """
        pixels = torch.stack([_as_pixels(image, self.description.resolution) for image in images])
        # pixels: [n, 3, resolution, resolution] in -1..1
        parts = pixels.split(self._pictures_at_once(self.description.latent_side**2))
        latents = torch.cat([self.vae.encode(part.to(self.device)).latent_dist.mean for part in parts])
        if (shift := self._latent_shift()) is not None:
            latents = (latents - shift[0]) / shift[1]
        return latents * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> np.ndarray:
        """Pictures of scaled latents.

        Args:
            latents: [n, channels, height, width].

        Returns:
            uint8 [n, height, width, 3] RGB, in pixels.
        """
        latents = latents.float() / self.vae.config.scaling_factor
        if (shift := self._latent_shift()) is not None:
            latents = latents * shift[1] + shift[0]
        parts = latents.split(self._pictures_at_once(latents.shape[2] * latents.shape[3]))
        pixels = torch.cat([self.vae.decode(part, return_dict=False)[0] for part in parts])
        # pixels: [n, 3, height, width] in -1..1
        scaled = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return scaled.permute(0, 2, 3, 1).cpu().numpy()

    def _pictures_at_once(self, latent_cells: int) -> int:
        """Few large pictures at a time: the autoencoder's memory grows with their pixels, in float32."""
        return max(1, _PIXELS_AT_ONCE // (latent_cells * self.description.vae_scale_factor**2))

    def _latent_shift(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Mean and deviation of the VAE's own latents, [1, channels, 1, 1] each, where its configuration has them."""
        config = self.vae.config
        mean, deviation = config.get("latents_mean"), config.get("latents_std")
        if mean is None and config.get("shift_factor") is None:
            return None
        channels = config.latent_channels
        shift = torch.tensor(mean if mean is not None else [config.shift_factor] * channels)
        scale = torch.tensor(deviation if deviation is not None else [1.0] * channels)
        return shift.view(1, -1, 1, 1).to(self.device), scale.view(1, -1, 1, 1).to(self.device)


def load_base_model(
    source: str | Path | BaseFiles = MINIATURE,
    *,
    device: str = "cpu",
    precision: str = "float32",
    digest: str = "",
) -> BaseModel:
    """Load a base model and freeze it.

    Args:
        source: the files of a model (Stable Diffusion 1.x, 2.x or XL, the miniature), or what `find_base` finds them by.
        device: a torch device; "auto" takes CUDA where there is one.
        precision: of U-Net and text encoders: float32, bfloat16 or float16. The VAE stays in float32.
        digest: digest of the weights, kept in the description and in every person's tokens.

    Raises:
        MissingWeights: a file is not there; the text names it.
        UnusableWeights: a weight is no finite number, which would look as if no identity could be learned.
        ConfigurationError: the model's kind, the precision or the device cannot be used.
    """
    if precision not in PRECISIONS:
        raise ConfigurationError(f"precision {precision!r} is unknown; use one of {', '.join(PRECISIONS)}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(
            f"base_model.device is {device}, and this machine has no CUDA device (torch {torch.__version__}); set it "
            "to cpu or auto, or mend the driver"
        )
    files = source if isinstance(source, BaseFiles) else find_base(source)
    about = describe(files.folder, name=files.source, digest=digest, precision=precision)
    dtype = PRECISIONS[precision]
    parts = load_parts(files, about, dtype)
    if needs_float32(dtype, device):
        parts.unet.set_attn_processor(
            {
                name: SelfAttention() if name.endswith("attn1.processor") else processor
                for name, processor in parts.unet.attn_processors.items()
            }
        )
    unet, vae = _freeze(parts.unet, device), _freeze(parts.vae, device)
    encoders = {name: _freeze(model, device) for name, model in parts.encoders.items()}
    _require_finite(about, {"unet": unet, "vae": vae, **encoders})
    return BaseModel(
        description=about,
        unet=unet,
        vae=vae,
        towers={
            name: TextTower(
                name=name,
                tokenizer=parts.tokenizers[name],
                model=model,
                length=about.context_length,
                width=about.widths[name],
                penultimate=about.penultimate,
                pools=name in POOLING,
            )
            for name, model in encoders.items()
        },
        scheduler_config=dict(parts.scheduler.config),
        alphas_cumprod=parts.scheduler.alphas_cumprod.float(),
        device=torch.device(device),
        dtype=dtype,
    )


def _freeze(model: Network, device: str) -> Network:
    return model.requires_grad_(False).eval().to(device)


def _require_finite(about: Description, models: Mapping[str, torch.nn.Module]) -> None:
    """Refuse weights that are NaN or infinite: with them every loss is NaN, and every person seems to be at fault.

    Args:
        about: of the base model.
        models: part of the pipeline -> model, where it computes.

    Raises:
        UnusableWeights: naming part and weight.
    """
    for part, model in models.items():
        for name, weight in model.state_dict().items():
            # A sum in float32 is not finite if any term is not, and needs no copy of the weight.
            if not weight.is_floating_point() or weight.sum(dtype=torch.float32).isfinite():
                continue
            odd = int((~weight.isfinite()).sum())
            if odd:
                half = (
                    ""
                    if about.precision == "float32" or part == "vae"
                    else (
                        f"; if the files are sound, {about.precision} is too small for them: set base_model.precision to "
                        "float32"
                    )
                )
                raise UnusableWeights(
                    f"base model {about.name!r}: {odd} of {weight.numel()} numbers of {name} in {part} are NaN or "
                    f"infinite, so no identity can be learned or drawn; bring the model's files again{half}"
                )


def _as_pixels(image: np.ndarray, resolution: int) -> torch.Tensor:
    """uint8 [h, w, 3] to float32 [3, resolution, resolution] in -1..1."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()
    if pixels.shape[-2:] != (resolution, resolution):
        pixels = F.interpolate(
            pixels[None], size=(resolution, resolution), mode="bicubic", antialias=True, align_corners=False
        )[0].clamp(0, 255)
    return pixels / 127.5 - 1
