"""The learning rate: what it comes to in the base model's own token embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from faceid_core.config import NightlyConfig
from faceid_core.errors import FaceidError
from faceid_core.weights.base_model import BaseFiles
from faceid_core.weights.resolve import base_files

from .finding import Finding

_TABLE = "token_embedding.weight"  # how the name of the table ends, in diffusers' layout and in the original one


def learning_rate(config: NightlyConfig) -> Iterator[Finding]:
    """How far a step moves a component of a free vector; nothing where rates have no unit of the base model."""
    method = config.method()
    if method.parametrization != "free" or method.optimizer != "adamw":
        return
    try:
        files = base_files(config)
    except FaceidError:
        return  # the check of the weights says so
    rate = method.learning_rate
    found = [
        f"{rate * spread:.2g} in {name}, whose token embeddings have a spread of {spread:g}"
        for name, spread in _spreads(files)
    ]
    yield Finding("learning rate", "ok", f"{rate:.3g} spreads are {'; '.join(found)}")


def _spreads(files: BaseFiles) -> Iterator[tuple[str, float]]:
    """The spread of every table of token embeddings; no other weight is read."""
    from safetensors import safe_open  # it imports torch, which the help page does not need

    from faceid_core.personalize.vocabulary import vocabulary

    for file in _weights(files):
        with safe_open(file, "pt") as opened:
            for key in sorted(opened.keys()):
                if key.endswith(_TABLE):
                    name = file.parent.name if files.checkpoint is None else key
                    yield name, vocabulary(opened.get_tensor(key)).spread


def _weights(files: BaseFiles) -> Iterator[Path]:
    """The files to look into: the checkpoint, or those of one variant of each text encoder."""
    if files.checkpoint is not None:
        yield files.checkpoint
        return
    for folder in sorted(files.folder.glob("text_encoder*")):
        weights = sorted(folder.glob("*.safetensors"))
        whole = [file for file in weights if ".fp16" not in file.name]
        yield from whole or weights
