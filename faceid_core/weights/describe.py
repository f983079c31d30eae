"""What a base model is, read from its configuration files without loading it."""

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
)
# Text encoders and their tokenizers, in the order in which their outputs are concatenated.
ENCODERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
# Those whose pooled text embedding the U-Net reads.
POOLING = ("text_encoder_2",)
PREDICTIONS = ("epsilon", "v_prediction", "sample")
_TIME_IDS = (
    6  # SDXL's micro-conditioning: original height and width, crop top and left, target height and width
)


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
        precision: precision of the frozen U-Net and text encoders; the VAE stays in float32.
        encoders: text encoder -> folder of its tokenizer, in the order of concatenation.
        pooled_width: width of the pooled text embedding that the U-Net reads beside the context, together with
            the picture's sizes (SDXL); 0 where it reads neither.
        penultimate: whether contexts are the encoders' last but one hidden state (SDXL), not the last.
        zero_unconditional: whether the unconditional prompt is zeros (SDXL), not the encoded empty prompt.
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
    precision: str
    encoders: Mapping[str, str]
    pooled_width: int
    penultimate: bool
    zero_unconditional: bool

    @property
    def draws_one_person(self) -> bool:
        """Whether the model was seen to draw one person where a prompt names two; of others nothing is known.

        The miniature never saw two people in one picture; in a wide one it draws a mixture of them twice.
        """
        return self.name == MINIATURE

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of one latent: (channels, side, side)."""
        return self.latent_channels, self.latent_side, self.latent_side

    def latent_shape_of(self, size: tuple[int, int] | None) -> tuple[int, int, int]:
        """Shape of the latent of a picture: (channels, height, width).

        Args:
            size: height and width of the picture in pixels; None for the model's own.

        Raises:
            ConfigurationError: the autoencoder has no latent of that size.
        """
        if size is None:
            return self.latent_shape
        if any(pixels < self.vae_scale_factor or pixels % self.vae_scale_factor for pixels in size):
            raise ConfigurationError(
                f"generate.height {size[0]} and generate.width {size[1]} must be multiples of {self.vae_scale_factor} "
                f"pixels for base model {self.name!r}"
            )
        return self.latent_channels, size[0] // self.vae_scale_factor, size[1] // self.vae_scale_factor


def source_folder(source: str | Path) -> Path:
    """The folder of a base model: 'miniature' ships with the project, anything else is a path.

    Raises:
        MissingWeights: the folder or one of its configuration files is not there.
        ConfigurationError: a model that text encoders of another kind, or none, condition.
    """
    folder = _MINIATURE_FOLDER if str(source) == MINIATURE else Path(source)
    require_files(folder, source)
    return folder


def require_files(folder: Path, source: str | Path) -> None:
    """Refuse a folder that lacks one of a base model's configuration files; raises as `source_folder`."""
    hint = (
        "bring the shipped files back, or train them again with: python -m faceid_core.miniature_training.train"
        if str(source) == MINIATURE
        else "give a folder of Stable Diffusion 1.x, 2.x or XL as diffusers' save_pretrained writes it"
    )

    def require(name: str) -> None:
        if not (folder / name).is_file():
            raise MissingWeights(f"base model {str(source)!r}: no file {name} in folder {folder}; {hint}")

    for name in _CONFIGS:
        require(name)
    for encoder in _encoders(_json(folder / "model_index.json"), str(source)):
        require(f"{encoder}/config.json")


def _encoders(index: Mapping[str, Any], name: str) -> dict[str, str]:
    """The text encoders that a pipeline names, with their tokenizers' folders."""
    found = {
        encoder: tokenizer for encoder, tokenizer in ENCODERS.items() if (index.get(encoder) or [None])[-1]
    }
    others = sorted(
        key for key, value in index.items()
        if key.startswith("text_encoder") and key not in ENCODERS and (value or [None])[-1]
    )  # fmt: skip
    if "text_encoder" not in found or others:
        encoders = f"the text encoders {', '.join([*found, *others]) or 'none'}"
        raise ConfigurationError(
            f"base model {name!r} is a {index.get('_class_name', 'pipeline')} with {encoders}; "
            "use Stable Diffusion 1.x, 2.x or an SDXL base model (no refiner)"
        )
    return found


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
        ConfigurationError: a kind of model that cannot be personalized here.
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
    encoders = _encoders(index, name)
    texts = {encoder: _text(_json(folder / encoder / "config.json")) for encoder in encoders}
    if unet["in_channels"] != vae["latent_channels"]:
        raise ConfigurationError(
            f"base model {name!r}: the U-Net reads {unet['in_channels']} channels, the VAE gives "
            f"{vae['latent_channels']}; inpainting and depth models cannot be personalized"
        )
    widths = {encoder: text["hidden_size"] for encoder, text in texts.items()}
    width = unet["cross_attention_dim"]
    if width != sum(widths.values()):
        raise ConfigurationError(
            f"base model {name!r}: the U-Net reads contexts {width} wide, the text gives {widths}"
        )
    pooled_width = _pooled_width(unet, texts, name, index)
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    side = unet["sample_size"]
    return Description(
        name=name,
        digest=digest,
        prediction_type=_prediction_type(scheduler, name),
        training_timesteps=scheduler.get("num_train_timesteps", 1000),
        latent_channels=vae["latent_channels"],
        latent_side=side,
        resolution=side * factor,
        vae_scale_factor=factor,
        widths=widths,
        context_length=min(text["max_position_embeddings"] for text in texts.values()),
        precision=precision,
        encoders=encoders,
        pooled_width=pooled_width,
        penultimate=pooled_width > 0,
        zero_unconditional=pooled_width > 0 and index.get("force_zeros_for_empty_prompt", True),
    )


def _pooled_width(
    unet: Mapping[str, Any], texts: Mapping[str, Mapping], name: str, index: Mapping[str, Any]
) -> int:
    """Width of the pooled text embedding that the U-Net reads beside contexts; 0 if it reads contexts only.

    Raises:
        ConfigurationError: the U-Net needs something else.
    """
    kind = index.get("_class_name", "pipeline")
    extras = [
        each for each in ("encoder_hid_dim_type", "class_embed_type", "time_cond_proj_dim") if unet.get(each)
    ]
    added = unet.get("addition_embed_type")
    if extras or added not in (None, "text_time") or (added and len(texts) < 2):
        needs = ", ".join([*extras, *([f"addition_embed_type {added}"] if added else [])])
        raise ConfigurationError(
            f"base model {name!r} is a {kind}: its U-Net needs more than a prompt ({needs}); "
            "use Stable Diffusion 1.x, 2.x or an SDXL base model"
        )
    if not added:
        return 0
    pooled = texts["text_encoder_2"]["projection_dim"]
    sizes = _TIME_IDS * unet["addition_time_embed_dim"]
    if unet["projection_class_embeddings_input_dim"] != pooled + sizes:
        raise ConfigurationError(
            f"base model {name!r}: the U-Net reads {unet['projection_class_embeddings_input_dim']} numbers beside "
            f"the prompt, the text gives {pooled} and the picture's sizes {sizes}; SDXL refiners cannot be used"
        )
    return pooled


def _prediction_type(scheduler: Mapping[str, Any], name: str) -> str:
    found = scheduler.get("prediction_type", "epsilon")
    if found not in PREDICTIONS or not (scheduler.get("beta_schedule") or scheduler.get("trained_betas")):
        raise ConfigurationError(
            f"base model {name!r}: its scheduler {scheduler.get('_class_name')} predicts {found!r} without a schedule "
            f"of betas that is known here; use a model that predicts {', '.join(PREDICTIONS)}"
        )
    return found


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
