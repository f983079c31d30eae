"""What a base model's words do: whether a word at the person's place changes later ones, and where the class word looks.

Both decide which questions about entanglement can be asked of a model. No figure here is of a learned person.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from faceid_core.diffusion.base import BaseModel, load_base_model
from faceid_core.evaluate.generation import Drawn, DrawRequest, draw
from faceid_core.evaluate.grid import load_grid
from faceid_core.evaluate.scorers import Scorers, load_scorers
from faceid_core.geometry.protocols import Face
from faceid_core.miniature.captions import ATTRIBUTE_PHRASES, CLOTHES_PHRASES, OBJECT_PHRASES, SCENE_PHRASES
from faceid_core.miniature.people import NAMED_SEEDS, name_of
from faceid_core.personalize.conditioning import class_word_embeddings, encode, tokenize
from faceid_core.personalize.subjects import plain_contexts
from faceid_core.personalize.vocabulary import vocabulary_of

_CLASS_WORD = "person"
_RANDOM_WORDS = 16
_STEPS, _GUIDANCE, _BATCH, _SIZE = 12, 4.0, 32, 64
_SEED = 61


@dataclass(frozen=True)
class Moved:
    """How far a random word at the person's place moves states, as a share of their own length.

    Attributes:
        later_words: of the words after it; end: of the end of the text.
    """

    later_words: float
    end: float


@torch.no_grad()
def words_moved(base: BaseModel, grid: str = "laboratory") -> Moved:
    """Compare the states of each prompt with the class word's with those with random token embeddings in its place.

    Random embeddings have the mean and the spread of the vocabulary's. Of a bag of words nothing moves.

    Args:
        base: with one text encoder.
        grid: whose prompts are read.
    """
    (tower,) = base.towers.values()
    weights = tower.token_embedding.weight.float()
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(_RANDOM_WORDS, 1, tower.width, generator=generator).to(weights.device)
    strange = weights.mean(dim=0) + vocabulary_of(tower).spread * noise  # [words, 1, width]
    own = class_word_embeddings(tower, _CLASS_WORD, 1)[None]  # [1, 1, width]
    later, ends = [], []
    for prompt in load_grid(grid).prompts:
        tokenized = tokenize(tower, prompt.text, 1)
        before, after = (encode(tower, tokenized, vectors).states for vectors in (own, strange))
        share = (after - before).norm(dim=-1) / before.norm(dim=-1)  # [words, length]
        place = int(tokenized.positions[-1])
        end = int((tokenized.ids == tower.tokenizer.eos_token_id).nonzero()[0])
        later += share[:, place + 1 : end].flatten().tolist()
        ends += share[:, end].tolist()
    return Moved(float(np.mean(later)), float(np.mean(ends)))


@torch.no_grad()
def own_share(base: BaseModel, captions: int = 24) -> float:
    """How much of the states of words for clothes and objects says which word it is, 0 to 1.

    The variance between the words over that of all their states, each word in the same captions: person, attribute and
    scene vary. Where it is little, a U-Net learns such a word late.

    Args:
        base: with one text encoder, whose vocabulary has these words.
        captions: of each word.
    """
    (tower,) = base.towers.values()
    phrases = [*CLOTHES_PHRASES.values(), *OBJECT_PHRASES.values()]
    rng = random.Random(_SEED)
    people = [name_of(seed) for seed in rng.sample(NAMED_SEEDS, captions)]
    around = [
        f"a photo of {person} {rng.choice(list(ATTRIBUTE_PHRASES.values()))} {rng.choice(list(SCENE_PHRASES.values()))}"
        for person in people
    ]
    states = torch.empty(len(phrases), captions, tower.width)
    for row, phrase in enumerate(phrases):
        for column, before in enumerate(around):
            place = len(tower.tokenizer(f"{before} {phrase}").input_ids) - 2  # the last word, before the end
            contexts, _ = plain_contexts(base, f"V* {phrase}", before)
            states[row, column] = contexts.states[0, 0, place].float().cpu()
    between = (states.mean(dim=1) - states.mean(dim=(0, 1))).square().sum(dim=1).mean()
    return float(between / (states - states.mean(dim=(0, 1))).square().sum(dim=2).mean())


def attention_in_face(base: BaseModel, scorers: Scorers, grid: str = "laboratory", seeds: int = 2) -> dict[str, float]:
    """Attention on the class word for each cell of the largest map, inside the found face's box and outside of it.

    Returns:
        means over pictures with a face of `inside`, `outside`, and `ratio` of the two means.
    """
    requests = [
        DrawRequest(_CLASS_WORD, prompt.text, seed) for prompt in load_grid(grid).prompts for seed in range(seeds)
    ]
    drawn = list(draw(base, requests, steps=_STEPS, guidance_scale=_GUIDANCE, batch=_BATCH))
    inside, outside = [], []
    for picture, faces in zip(drawn, _faces(scorers, drawn), strict=True):
        if not faces or picture.attention is None:
            continue
        is_face = _box_mask(faces[0], picture)
        values = picture.attention.astype(np.float64)
        inside.append(values[is_face].mean())
        outside.append(values[~is_face].mean())
    means = float(np.mean(inside)), float(np.mean(outside))
    return {"inside": means[0], "outside": means[1], "ratio": means[0] / means[1]}


def _box_mask(face: Face, picture: Drawn) -> np.ndarray:
    """Cells of the attention map whose centers lie in the face's box, bool [h, w]."""
    assert picture.attention is not None, "the caller asked for attention"
    rows, columns = picture.attention.shape
    height, width = picture.image.shape[:2]
    x, y = (np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows
    x0, y0, x1, y1 = face.box
    return ((y >= y0) & (y <= y1))[:, None] & ((x >= x0) & (x <= x1))[None, :]


def _faces(scorers: Scorers, drawn: Sequence[Drawn]) -> list[list[Face]]:
    return [list(found) for found in scorers.detector.detect([each.image for each in drawn])]


def measure_words(folder: Path, scorers: str) -> dict:
    """Words' influence and the class word's attention of a pipeline folder."""
    base = load_base_model(folder)
    moved = words_moved(base)
    found = attention_in_face(base, load_scorers(scorers))
    return {
        "a random word moves later words by": round(moved.later_words, 4),
        "... the end by": round(moved.end, 4),
        "share of clothes' and objects' words that is their own": round(own_share(base), 4),
        **{f"class word's attention a cell, {name}": round(value, 4) for name, value in found.items()},
    }
