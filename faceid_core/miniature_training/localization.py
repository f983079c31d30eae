"""Holds a base model's attention on a person's words to that person's face while the model is trained.

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

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch.nn import functional as F
from transformers import CLIPTokenizer

from faceid_core.miniature.people import FIRST_NAMES, LAST_NAMES

_CLASS_WORDS = ("person", "man", "woman")
# Attention a cell inside the face is to be at least so many times that outside.
RATIO = 4.0
# ... and at least so much on a word; of 32 tokens each has 0.03 where all are looked at alike.
LEAST_INSIDE = 0.15
_LEAST_CELLS = 0.5  # of a face, below which it has no place in a map


class PeopleWords:
    """Finds the words of the first and of the second person in token ids."""

    def __init__(self, tokenizer: CLIPTokenizer):
        self._people = _ids(tokenizer, (*FIRST_NAMES, *LAST_NAMES, *_CLASS_WORDS))
        (self._between,) = _ids(tokenizer, ("and",)).tolist()

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Share of each token in each person's words, float [B, 2, length]; zeros for who is not there."""
        is_word = torch.isin(tokens, self._people.to(tokens.device))
        after = (tokens == self._between).cumsum(dim=1) > 0
        words = torch.stack([is_word & ~after, is_word & after], dim=1).float()
        return words / words.sum(dim=2, keepdim=True).clamp(min=1)


def _ids(tokenizer: CLIPTokenizer, words: Iterable[str]) -> torch.Tensor:
    return torch.tensor(tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in words]))


def faces_of_people(faces: torch.Tensor, tokens_of: torch.Tensor) -> torch.Tensor:
    """Each person's part of the cells of faces.

    Args:
        faces: share of face in each latent cell, [B, 1, h, w]; of two people one is in the left half, one in the right.
        tokens_of: of `PeopleWords`, [B, 2, length].

    Returns:
        [B, 2, h, w]: the whole for a person alone.
    """
    is_pair = (tokens_of.sum(dim=2) > 0).all(dim=1)[:, None, None]  # [B, 1, 1]
    is_left = torch.arange(faces.shape[3], device=faces.device) < faces.shape[3] / 2  # [w]
    first = torch.where(is_pair & ~is_left, torch.zeros_like(faces[:, 0]), faces[:, 0])
    second = torch.where(is_pair & ~is_left, faces[:, 0], torch.zeros_like(faces[:, 0]))
    return torch.stack([first, second], dim=1)


class Localization:
    """Reads a U-Net's cross-attention while it computes, and makes a loss of it.

    diffusers' plain processor asks each layer for its shares of attention (`Attention.get_attention_scores`); here they
    are seen as well. The fused processors ask for none, so all layers of cross-attention get the plain one.
    """

    def __init__(self, unet: UNet2DConditionModel, tokenizer: CLIPTokenizer):
        self._words_of = PeopleWords(tokenizer)
        self._faces = self._words = torch.zeros(0)
        self._losses: list[torch.Tensor] = []
        processors, plain = unet.attn_processors, AttnProcessor()
        for name, layer in unet.named_modules():
            if getattr(layer, "is_cross_attention", False):
                processors[f"{name}.processor"] = plain
                layer.get_attention_scores = self._seeing(layer)
        unet.set_attn_processor(processors)

    def expect(self, faces: torch.Tensor, tokens: torch.Tensor) -> None:
        """Say where the faces of the next batch are, shares of each latent cell [B, 1, h, w], and its captions' ids."""
        self._words = self._words_of(tokens)
        self._faces, self._losses = faces_of_people(faces, self._words), []

    def loss(self) -> torch.Tensor:
        """Mean over layers, pictures and people of the last batch; 0 without people."""
        return torch.stack(self._losses).mean()

    def _seeing(self, layer: Attention) -> Callable[..., torch.Tensor]:
        compute, heads = layer.get_attention_scores, layer.heads

        def seen(*arguments: Any) -> torch.Tensor:
            shares = compute(*arguments)  # [B heads, cells, length]
            maps = shares.unflatten(0, (-1, heads)).mean(dim=1)  # [B, cells, length]
            self._losses.append(located_loss(maps.float(), self._faces, self._words))
            return shares

        return seen


def located_loss(maps: torch.Tensor, faces: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Mean over people of what attention on their words lacks inside their face.

    That is to `RATIO` times the mean outside of it, to `RATIO` times the mean inside another person's face, and to
    `LEAST_INSIDE`. A face is a tenth of a picture, so the mean outside alone leaves room for as much in the other's face.

    Args:
        maps: attention of each cell, [B, cells, length].
        faces: [B, people, h, w], of as many cells or more.
        words: [B, people, length].
    """
    height, width = faces.shape[2:]
    shrink = round((height * width / maps.shape[1]) ** 0.5)
    inside = F.avg_pool2d(faces, shrink).flatten(2)  # [B, people, cells]
    looks = torch.einsum("bcl,bpl->bpc", maps, words)  # [B, people, cells]
    size = inside.sum(dim=2)
    within = (looks * inside).sum(dim=2) / size.clamp(min=_LEAST_CELLS)
    beyond = (looks * (1 - inside)).sum(dim=2) / (1 - inside).sum(dim=2).clamp(min=1)
    others = inside.sum(dim=1, keepdim=True) - inside  # [B, people, cells]
    elsewhere = (looks * others).sum(dim=2) / others.sum(dim=2).clamp(min=_LEAST_CELLS)
    counts = (size >= _LEAST_CELLS) & (words.sum(dim=2) > 0)  # [B, people]
    lacking = F.relu(RATIO * torch.maximum(beyond, elsewhere) - within) + F.relu(LEAST_INSIDE - within)
    return (lacking * counts).sum() / counts.sum().clamp(min=1)
