"""Textual Inversion files: a person's vectors in the form that diffusers' `load_textual_inversion` and others read.

Such a file has one context per prompt, so it holds a person exactly if there is one stage with K = V. Tokens with
more are first distilled into such ones (`distill.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import save

from faceid_core.errors import ConfigurationError

from .prompts import PLACEHOLDER_TOKEN, require_placeholder_token
from .tokens import IdentityTokens

_METADATA_KEY = "faceid"
# The names by which other tools know the two text encoders of SDXL.
_TWO_ENCODERS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
# Published configurations of SDXL have the old end-of-text id 2, at which transformers pools at the highest token id: the
# added token's. This line of a program that has loaded such a file sets the right id.
POOLING_REPAIR = "pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id"
_AFTER_LOADING = (
    "where text_encoder_2's configuration has eos_token_id 2, transformers takes the pooled embedding at the added token "
    f"instead of the end of the text; run: {POOLING_REPAIR}"
)


def is_exact(tokens: IdentityTokens) -> bool:
    """Whether a Textual Inversion file can hold these tokens without loss: one stage, keys and values alike."""
    if tokens.is_mixture or tokens.stages != 1:
        return False
    return all(torch.equal(each[:, 0], each[:, 1]) for each in tokens.tensors.values())


def to_textual_inversion(
    tokens: IdentityTokens, *, token: str = PLACEHOLDER_TOKEN, notes: Mapping[str, Any] | None = None
) -> bytes:
    """The tokens as a Textual Inversion file: safetensors with a tensor [vectors, width] per text encoder.

    With one text encoder the tensor is named by the token, as diffusers writes it; with SDXL's two they are
    `clip_l` and `clip_g`, the token is named when the file is loaded, and the metadata's `after_loading` says how the
    program that loads it keeps the pooled embedding right.

    Args:
        token: the placeholder token in the other tool's prompts; lower case, because CLIP's tokenizer
            lowers prompts, and diffusers then finds only the first of a capital token's vectors.
        notes: kept in the file's metadata, for instance what distilling lost.

    Raises:
        ConfigurationError: the tokens have several stages or differing keys and values, or the token is no
            lower-case word.
    """
    require_placeholder_token(token)
    if not is_exact(tokens):
        raise ConfigurationError(
            f"the tokens have {tokens.stages} stage(s) with keys and values of their own, which a Textual Inversion "
            "file cannot hold; distill them first"
        )
    names = {next(iter(tokens.tensors)): token} if len(tokens.tensors) == 1 else _TWO_ENCODERS
    fields = {
        "format": "faceid-textual-inversion",
        "format_version": 1,
        "token": token,
        "vectors": tokens.vectors,
        "class_word": tokens.class_word,
        "base_digest": tokens.base_digest,
        **({"after_loading": _AFTER_LOADING} if len(tokens.tensors) > 1 else {}),
        **(notes or {}),
    }
    # One metadata entry with sorted JSON: safetensors writes several entries in no fixed order.
    metadata = {_METADATA_KEY: json.dumps(fields, sort_keys=True, separators=(",", ":"))}
    return save({names[name]: tokens.tensors[name][0, 0].contiguous() for name in tokens.tensors}, metadata)


def single_context(tokens: IdentityTokens, vectors: Mapping[str, torch.Tensor]) -> IdentityTokens:
    """The person with one stage and K = V.

    Args:
        vectors: text encoder -> float32 [vectors, width].
    """
    tensors = {
        name: each.detach().float().cpu()[None, None].expand(1, 2, -1, -1).contiguous()
        for name, each in vectors.items()
    }
    return replace(tokens, tensors=tensors, boundaries=(), names=())
