"""A short diffusers script that draws an exported person as `draw` does, and does not need this project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from faceid_core.errors import ConfigurationError, MissingWeights
from faceid_core.personalize.export import POOLING_REPAIR
from faceid_core.personalize.prompts import fill
from faceid_core.weights.describe import Description, weights_variant

from .exported import DrawOptions
from .sampling import noise_seed

_SCRIPT = """\
import torch
from diffusers import DiffusionPipeline, {sampler}
{imports}
device, precision = ("cuda", torch.{precision}) if torch.cuda.is_available() else ("cpu", torch.float32)
pipe = DiffusionPipeline.from_pretrained({base!r}, torch_dtype=precision{options}).to(device)
pipe.scheduler = {sampler}.from_config(pipe.scheduler.config)
{load}
noise = torch.randn(1, {shape}, generator=torch.Generator().manual_seed({seed}))
noise = noise.to(device, precision)
settings = dict(height={height}, width={width}, num_inference_steps={steps}, guidance_scale={guidance_scale})
picture = pipe({prompt!r}, latents=noise, **settings).images[0]
picture.save({picture!r})
"""
_ONE = "pipe.load_textual_inversion({file!r}, token={token!r})"
_TWO = """\
vectors = load_file({file!r})
pipe.load_textual_inversion(vectors["clip_l"], {token!r}, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
pipe.load_textual_inversion(vectors["clip_g"], {token!r}, text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)
{repair}"""


def diffusers_script(
    about: Description,
    folder: str | Path,
    file: str | Path,
    prompt: str,
    drawing: DrawOptions,
    *,
    token: str,
    seed: int = 0,
    picture: str = "picture.png",
) -> str:
    """The script's text.

    Args:
        about: of the base model; folder: where it lies, in diffusers' layout.
        file: the person's Textual Inversion file.
        prompt: with `V*` once.
        seed: the initial noise is that of `draw` for this seed.
        picture: file that the script writes.

    Raises:
        ConfigurationError: the sampler is not a name that the script could import.
    """
    if not drawing.sampler.isidentifier():
        raise ConfigurationError(f"the sampler {drawing.sampler!r} is no name of a diffusers scheduler")
    two = about.pooled_width > 0
    shape = about.latent_shape_of(drawing.size)
    return _SCRIPT.format(
        sampler=drawing.sampler,
        imports="from safetensors.torch import load_file\n" if two else "",
        base=str(folder),
        precision=about.precision,
        options=f"{_variant(Path(folder))}{'' if two else ', safety_checker=None'}",
        load=(_TWO if two else _ONE).format(file=str(file), token=token, repair=POOLING_REPAIR),
        shape=_numbers(shape),
        seed=noise_seed(seed, shape),
        height=shape[1] * about.vae_scale_factor,
        width=shape[2] * about.vae_scale_factor,
        prompt=fill(prompt, token),
        steps=drawing.steps,
        guidance_scale=drawing.guidance_scale,
        picture=picture,
    )


def _variant(folder: Path) -> str:
    """The argument by which diffusers finds weights in half precision, where a folder has no others."""
    try:
        variant = weights_variant(folder, "unet", "diffusion_pytorch_model")
    except MissingWeights:
        return ""
    return f", variant={variant!r}" if variant else ""


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
