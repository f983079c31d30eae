"""What a base model is, read from its configuration files; and where its files lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceid_core.errors import ConfigurationError, MissingWeights

MINIATURE = "miniature"
_MINIATURE_FOLDER = Path(__file__).resolve().parent.parent / "miniature" / "weights" / "pipeline"
_CONFIGS = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
)
# Text encoders in the order in which their outputs are concatenated.
ENCODERS = {"text_encoder": "tokenizer"}


@dataclass(frozen=True)
class Description:
    """The facts of a base model that decide how it is used.

    Attributes:
        name: the source it was loaded from ("miniature", or the folder's name).
        digest: digest of its weights as the caller knows it ("" if it was not given).
        prediction_type: what the U-Net predicts: epsilon, v_prediction or sample.
        training_timesteps: number of training timesteps T.
        latent_channels, latent_side, vae_scale_factor: shape of a latent, [channels, side, side].
        resolution: side of a picture in pixels.
        widths: text encoder -> width of its token embeddings.
        context_length: tokens in a context.
        context_width: width of the concatenated contexts, as the U-Net reads it.
        precision: precision of the frozen U-Net and text encoders; the VAE stays in float32.
    """

    name: str
    digest: str
    prediction_type: str
    training_timesteps: int
    latent_channels: int
    latent_side: int
    resolution: int
    vae_scale_factor: int
    widths: Mapping[str, int]
    context_length: int
    context_width: int
    precision: str

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of one latent: (channels, side, side)."""
        return self.latent_channels, self.latent_side, self.latent_side


def source_folder(source: str | Path) -> Path:
    """The folder of a base model: 'miniature' ships with the project, anything else is a path.

    Raises:
        MissingWeights: the folder or one of its configuration files is not there.
    """
    folder = _MINIATURE_FOLDER if str(source) == MINIATURE else Path(source)
    for name in _CONFIGS:
        if not (folder / name).is_file():
            hint = (
                "bring the shipped files back, or make them anew with: python -m faceid_core.miniature.train"
                if str(source) == MINIATURE
                else "give a Stable Diffusion 1.x or 2.x folder as diffusers' save_pretrained writes it"
            )
            raise MissingWeights(f"base model {str(source)!r}: no file {name} in folder {folder}; {hint}")
    return folder


def weights_variant(folder: Path, part: str, stem: str) -> str | None:
    """The variant ("fp16" or None) in which a part's safetensors file is present.

    Raises:
        MissingWeights: there is none; pickled weights (.bin) are never read.
    """
    for variant in (None, "fp16"):
        marked = f"{stem}.{variant}" if variant else stem
        for name in (f"{marked}.safetensors", f"{marked}.safetensors.index.json"):
            if (folder / part / name).is_file():
                return variant
    raise MissingWeights(
        f"no file {stem}.safetensors in folder {folder / part}; "
        "pickled weights are not read: convert with diffusers' save_pretrained(safe_serialization=True)"
    )


def describe(folder: Path, *, name: str, digest: str, precision: str) -> Description:
    """Read a base model's description from its configuration files, without loading weights.

    Raises:
        ConfigurationError: a kind of model that cannot be personalised here.
    """
    unet, vae, scheduler, index = (
        _json(folder / part)
        for part in (
            "unet/config.json",
            "vae/config.json",
            "scheduler/scheduler_config.json",
            "model_index.json",
        )
    )
    encoders = {encoder: _json(folder / encoder / "config.json") for encoder in ENCODERS}
    kind = index.get("_class_name", "")
    if unet.get("addition_embed_type") or unet.get("encoder_hid_dim_type") or unet.get("class_embed_type"):
        raise ConfigurationError(
            f"base model {name!r} is a {kind}: its U-Net needs more than a prompt; "
            "use Stable Diffusion 1.x or 2.x"
        )
    if unet["in_channels"] != vae["latent_channels"]:
        raise ConfigurationError(
            f"base model {name!r}: the U-Net reads {unet['in_channels']} channels, the VAE gives "
            f"{vae['latent_channels']}; inpainting and depth models cannot be personalised"
        )
    widths = {encoder: _text(config)["hidden_size"] for encoder, config in encoders.items()}
    width = unet["cross_attention_dim"]
    if width != sum(widths.values()):
        raise ConfigurationError(
            f"base model {name!r}: the U-Net reads contexts {width} wide, the text gives {widths}"
        )
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    side = unet["sample_size"]
    return Description(
        name=name,
        digest=digest,
        prediction_type=scheduler.get("prediction_type", "epsilon"),
        training_timesteps=scheduler.get("num_train_timesteps", 1000),
        latent_channels=vae["latent_channels"],
        latent_side=side,
        resolution=side * factor,
        vae_scale_factor=factor,
        widths=widths,
        context_length=min(_text(config)["max_position_embeddings"] for config in encoders.values()),
        context_width=width,
        precision=precision,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MissingWeights(
            f"{path} is not valid JSON ({error}); fetch the base model's files again"
        ) from None


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The text part of an encoder's configuration; whole CLIP models nest it."""
    return config.get("text_config", config)
