"""Holds a base model's attention on words to what they name while the model is trained: people's faces, clothes, objects.

A U-Net of this size, trained on captions alone, looks at a person's words everywhere. In the pictures of two people that
it learns from, either name then reaches both faces, and the class word's attention says nothing of where a person is.

Source: FastComposer (Xiao et al. 2023, arXiv 2305.10431), whose abstract names the idea: while a model is trained, the
attention of each subject is held to its region of the picture. The form is ours: a hinge on the ratio of the mean
attention inside to that outside, and one on the mean inside, so that it is silent once words are looked at in their
place, and a face's attributes are read, too. (The ratio alone is reached soonest by looking at a person's words nowhere.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch.nn import functional as F
from transformers import CLIPTokenizer

from faceid_core.miniature.captions import CLOTHES_PHRASES, OBJECT_PHRASES
from faceid_core.miniature.people import FIRST_NAMES, LAST_NAMES
from faceid_core.miniature.renderer import LABELS
from faceid_core.miniature_training.autoencoder import FACE_LABELS

# What a region is: the face of the first person and of the second, clothes, a held object.
REGIONS = 4
_CLASS_WORDS = ("person", "man", "woman")
# Attention a cell inside a word's region is to be at least so many times that outside.
RATIO = 4.0
# ... and at least so much on a word; of 32 tokens each has 0.03 where all are looked at alike.
LEAST_INSIDE = 0.15
_LEAST_CELLS = 0.5  # of a region, below which it has no place in a map


def shares_of_cells(labels: np.ndarray) -> torch.Tensor:
    """Share of each latent cell that is face, clothes and held object, float32 [N, 3, H / 4, W / 4].

    Args:
        labels: uint8 [N, H, W].
    """
    parts = (FACE_LABELS, (LABELS.index("clothes"),), (LABELS.index("object"),))
    is_part = np.stack([np.isin(labels, part) for part in parts], axis=1)
    count, _, height, width = is_part.shape
    cells = is_part.reshape(count, len(parts), height // 4, 4, width // 4, 4)
    return torch.from_numpy(cells.mean(axis=(3, 5), dtype=np.float32))


class PlacedWords:
    """Finds the words of each region in token ids.

    Of a phrase for clothes or an object it is the last word, which has seen the ones before it.
    """

    def __init__(self, tokenizer: CLIPTokenizer):
        self._people = _ids(tokenizer, (*FIRST_NAMES, *LAST_NAMES, *_CLASS_WORDS))
        self._clothes, self._objects = (
            _ids(tokenizer, {phrase.split()[-1] for phrase in phrases.values()})
            for phrases in (CLOTHES_PHRASES, OBJECT_PHRASES)
        )
        (self._between,) = _ids(tokenizer, ("and",)).tolist()

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Share of each token in each region's words, float [B, REGIONS, length]; zeros for what is not named."""
        is_person, is_clothes, is_object = (
            torch.isin(tokens, ids.to(tokens.device)) for ids in (self._people, self._clothes, self._objects)
        )
        after = (tokens == self._between).cumsum(dim=1) > 0
        words = torch.stack([is_person & ~after, is_person & after, is_clothes, is_object], dim=1).float()
        return words / words.sum(dim=2, keepdim=True).clamp(min=1)


def _ids(tokenizer: CLIPTokenizer, words: Iterable[str]) -> torch.Tensor:
    return torch.tensor(tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in words]))


def regions_of(shares: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Each region's part of the cells.

    Args:
        shares: of `shares_of_cells`, [B, 3, h, w]; of two people one is in the left half, one in the right.
        words: of `PlacedWords`, [B, REGIONS, length].

    Returns:
        [B, REGIONS, h, w]; a person alone has all of the face.
    """
    faces = shares[:, 0]
    is_pair = (words[:, :2].sum(dim=2) > 0).all(dim=1)[:, None, None]  # [B, 1, 1]
    is_left = torch.arange(faces.shape[2], device=faces.device) < faces.shape[2] / 2  # [w]
    is_seconds = is_pair & ~is_left  # [B, 1, w]
    nothing = torch.zeros_like(faces)
    people = (torch.where(is_seconds, nothing, faces), torch.where(is_seconds, faces, nothing))
    return torch.stack([*people, shares[:, 1], shares[:, 2]], dim=1)


class Localization:
    """Reads a U-Net's cross-attention while it computes, and makes a loss of it.

    diffusers' plain processor asks each layer for its shares of attention (`Attention.get_attention_scores`); here they
    are seen as well. The fused processors ask for none, so all layers of cross-attention get the plain one.
    """

    def __init__(self, unet: UNet2DConditionModel, tokenizer: CLIPTokenizer):
        self._words_of = PlacedWords(tokenizer)
        self._regions = self._words = torch.zeros(0)
        self._losses: list[torch.Tensor] = []
        processors, plain = unet.attn_processors, AttnProcessor()
        for name, layer in unet.named_modules():
            if getattr(layer, "is_cross_attention", False):
                processors[f"{name}.processor"] = plain
                layer.get_attention_scores = self._seeing(layer)
        unet.set_attn_processor(processors)

    def expect(self, shares: torch.Tensor, tokens: torch.Tensor) -> None:
        """Say what the next batch shows where (`shares_of_cells`, [B, 3, h, w]), and its captions' ids [B, length]."""
        self._words = self._words_of(tokens)
        self._regions, self._losses = regions_of(shares, self._words), []

    def loss(self) -> torch.Tensor:
        """Mean over layers, and over the regions that the last batch shows and names; 0 without any."""
        return torch.stack(self._losses).mean()

    def _seeing(self, layer: Attention) -> Callable[..., torch.Tensor]:
        compute, heads = layer.get_attention_scores, layer.heads

        def seen(*arguments: Any) -> torch.Tensor:
            shares = compute(*arguments)  # [B heads, cells, length]
            maps = shares.unflatten(0, (-1, heads)).mean(dim=1)  # [B, cells, length]
            self._losses.append(located_loss(maps.float(), self._regions, self._words))
            return shares

        return seen


def located_loss(maps: torch.Tensor, regions: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Mean over regions of what attention on their words lacks inside them.

    That is to `RATIO` times the mean outside, to `RATIO` times the mean inside any other region, and to `LEAST_INSIDE`. A
    face is a tenth of a picture, so the mean outside alone leaves room for as much in the other person's face.

    Args:
        maps: attention of each cell, [B, cells, length].
        regions: [B, regions, h, w], of as many cells or more.
        words: [B, regions, length].
    """
    height, width = regions.shape[2:]
    shrink = round((height * width / maps.shape[1]) ** 0.5)
    inside = F.avg_pool2d(regions, shrink).flatten(2)  # [B, regions, cells]
    looks = torch.einsum("bcl,brl->brc", maps, words)  # [B, regions, cells]
    size = inside.sum(dim=2)  # [B, regions]
    # Mean of the looks at each region's words inside each region, [B, regions of words, regions].
    means = torch.einsum("brc,bqc->brq", looks, inside) / size.clamp(min=_LEAST_CELLS)[:, None]
    within = means.diagonal(dim1=1, dim2=2)
    elsewhere = (means - torch.diag_embed(within)).amax(dim=2)
    beyond = (looks * (1 - inside)).sum(dim=2) / (1 - inside).sum(dim=2).clamp(min=1)
    counts = (size >= _LEAST_CELLS) & (words.sum(dim=2) > 0)  # [B, regions]
    lacking = F.relu(RATIO * torch.maximum(beyond, elsewhere) - within) + F.relu(LEAST_INSIDE - within)
    return (lacking * counts).sum() / counts.sum().clamp(min=1)
