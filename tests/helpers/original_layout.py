"""Writes a Stable Diffusion 1.x, 2.x or XL model as one file in the layout of its first release, from diffusers' layout.

diffusers reads that layout (`from_single_file`); nothing in it writes it, so the names are turned back here.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm.": "ln_final.",
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    ".fc1.": ".c_fc.",
    ".fc2.": ".c_proj.",
    "self_attn.": "attn.",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_VAE = {
    r"down_blocks\.(\d)\.resnets": r"down.\1.block",
    r"down_blocks\.(\d)\.downsamplers\.0": r"down.\1.downsample",
    r"up_blocks\.(\d)\.resnets": r"up.\1.block",
    r"up_blocks\.(\d)\.upsamplers\.0": r"up.\1.upsample",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0": "mid.attn_1",
    r"conv_norm_out": "norm_out",
    r"conv_shortcut": "nin_shortcut",
    r"group_norm": "norm",
    r"to_(q|k|v)": r"\1",
    r"to_out\.0": "proj_out",
}


def write_original_layout(folder: Path, file: Path, kind: str) -> Path:
    """Write the weights of a pipeline's folder as one safetensors file; kind: sd15, sd21 or sdxl."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    tensors = {
        **{f"model.diffusion_model.{_unet_name(k, unet)}": v for k, v in unet.state_dict().items()},
        **{f"first_stage_model.{_vae_name(k, vae)}": _vae_weight(k, v) for k, v in vae.state_dict().items()},
        **_texts(folder, kind),
    }
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, file)
    return file


def _texts(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """The text encoders: OpenAI's as transformers has them, OpenCLIP's by its own names."""
    first = CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict()
    if kind == "sd21":
        return _open_clip(first, "cond_stage_model.model.")
    place = "conditioner.embedders.0" if kind == "sdxl" else "cond_stage_model"
    found = {f"{place}.transformer.text_model.{name}": value for name, value in first.items()}
    if kind == "sdxl":
        second = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2").state_dict()
        projection = second.pop("text_projection.weight")
        plain = {name.removeprefix("text_model."): value for name, value in second.items()}
        found |= _open_clip(plain, "conditioner.embedders.1.model.")
        found["conditioner.embedders.1.model.text_projection"] = projection.T
    return found


def _open_clip(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    found = {}
    for name, value in state.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            value = torch.cat(
                [state[name.replace("q_proj", side)] for side in ("q_proj", "k_proj", "v_proj")]
            )
            name = name.replace("q_proj.", "in_proj_")
        for ours, theirs in _OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        found[prefix + name] = value
    return found


def _unet_name(name: str, unet: UNet2DConditionModel) -> str:
    count = unet.config.layers_per_block + 1
    for ours, theirs in _UNET.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs)
    side, *rest = name.split(".")
    if side == "mid_block":
        kind, number, *rest = rest
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}"
        return _inside(place, kind, rest)
    block, kind, number, *rest = rest
    attends = bool(getattr(getattr(unet, side)[int(block)], "attentions", None))
    if kind in ("downsamplers", "upsamplers"):
        number = count - 1
    place = int(block) * count + int(number)
    if kind == "downsamplers":
        return f"input_blocks.{1 + place}.0.op.{rest[-1]}"
    if kind == "upsamplers":
        return f"output_blocks.{place}.{2 if attends else 1}.conv.{rest[-1]}"
    stem = f"input_blocks.{1 + place}" if side == "down_blocks" else f"output_blocks.{place}"
    return _inside(f"{stem}.{1 if kind == 'attentions' else 0}", kind, rest)


def _inside(place: str, kind: str, rest: list[str]) -> str:
    if kind == "resnets":
        rest = [_RESNET[rest[0]], *rest[1:]]
    return ".".join([place, *rest])


def _vae_name(name: str, vae: AutoencoderKL) -> str:
    last = len(vae.config.up_block_types) - 1
    name = re.sub(r"up_blocks\.(\d)", lambda found: f"up_blocks.{last - int(found[1])}", name)
    for ours, theirs in _VAE.items():
        name = re.sub(ours, theirs, name)
    return name


def _vae_weight(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Attention's linear layers were convolutions of one pixel."""
    is_linear = re.search(r"to_(q|k|v|out\.0)\.weight$", name)
    return tensor[:, :, None, None] if is_linear else tensor
