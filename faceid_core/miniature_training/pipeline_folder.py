"""The miniature world's Stable Diffusion pipeline as a folder: new models, writing, loading."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WEIGHTS = Path(__file__).parents[1] / "miniature" / "weights"
PIPELINE = WEIGHTS / "pipeline"
TEXT_WIDTH = 128


def new_text_encoder(tokenizer: CLIPTokenizer, layers: int = 2) -> CLIPTextModel:
    """An untrained CLIP text encoder of width 128."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet(latent_channels: int) -> UNet2DConditionModel:
    """An untrained U-Net on 16 x 16 latents with cross-attention at 16 x 16, at 8 x 8 and in the middle."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        # diffusers reads this number as the number of heads here: 4 heads of 16 and 32 channels.
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    """The noise schedule that the U-Net is trained with."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


def write_pipeline(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    folder: Path = PIPELINE,
) -> None:
    """Write an ordinary StableDiffusionPipeline folder with half-precision weights, one file per model.

    Converts the given models to half precision.
    """
    # Encoding stores its padding and truncation in the tokenizer; saved, they would change the model's digest.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16, silence_dtype_warnings=True)
    pipeline.save_pretrained(folder, safe_serialization=True)
    for part in ("text_encoder", "vae", "unet"):
        config = folder / part / "config.json"
        settings = json.loads(config.read_text("utf-8"))
        settings.pop("_name_or_path", None)  # the path that the part was loaded from is no property of it
        if part == "text_encoder":
            # transformers would load it in the stored type; the other parts load in float32.
            settings["dtype"] = "float32"
        config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", "utf-8")
    # Nor is the setting that refuses downloads.
    written = folder / "tokenizer" / "tokenizer_config.json"
    text = written.read_text("utf-8").replace('"local_files_only": true', '"local_files_only": false')
    written.write_text(text, "utf-8")


def load_pipeline(folder: Path = PIPELINE) -> StableDiffusionPipeline:
    """The pipeline in float32 on the CPU, without progress bars.

    Raises:
        FileNotFoundError: if the folder holds no pipeline.
    """
    if not (folder / "model_index.json").exists():
        raise FileNotFoundError(
            f"no pipeline in {folder}; run `python -m faceid_core.miniature_training.train unet`"
        )
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
