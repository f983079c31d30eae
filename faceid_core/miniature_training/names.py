"""Trains the text encoder to represent the named people before the U-Net is trained.

Each name is rare and needs both its words, so training on pictures alone learns names last. The states of a name's last
word and of the caption's end are therefore trained to hold the person's identity parameters, as CLIP's text encoder knows
its words before any U-Net reads it. The end matters most: it fills two thirds of the context, and attention is spread
evenly at first.
"""

import copy
import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from faceid_core.miniature.captions import NEARLY_ALL, Said, caption
from faceid_core.miniature.people import ANONYMOUS_SEEDS, LAST_NAMES, NAMED_SEEDS
from faceid_core.miniature.renderer import sample_shot
from faceid_core.miniature_training.dataset import subject_of
from faceid_core.miniature_training.schedules import Budget, rate_at
from faceid_core.miniature_training.scorer_data import person_traits

_NAMED_SHARE = 0.75  # of the people in captions
_SPREAD = 0.8
_TRAITS_FLOOR = 0.2
_OWN_DIRECTIONS = 48  # of a state's 128, in which a word holds which word it is


def named_traits() -> torch.Tensor:
    """Identity parameters of all named people, of mean 0 and unit spread: float32 [names, T]."""
    traits = torch.from_numpy(np.stack([person_traits(seed) for seed in NAMED_SEEDS]))
    return (traits - traits.mean(0)) / traits.std(0).clamp(min=_TRAITS_FLOOR)


class NamePositions:
    """Finds names in token ids."""

    def __init__(self, tokenizer: CLIPTokenizer):
        self.last_names = torch.tensor(
            tokenizer.convert_tokens_to_ids([name + "</w>" for name in LAST_NAMES])
        )
        self.end = tokenizer.eos_token_id

    def __call__(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks bool [B, 32] of the names' last words and of the end tokens, for token ids [B, 32]."""
        return torch.isin(tokens, self.last_names), tokens == self.end


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids int64 [texts, 32], filled up with the end's."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def _captions(
    count: int, numbers: np.random.Generator, words: random.Random, said: Said, pairs: float
) -> tuple[list[str], list[list[int]]]:
    """Captions, and the rows in `named_traits` of the people in each, -1 for those without a name."""
    texts, people = [], []
    for _ in range(count):
        seeds = [
            words.choice(NAMED_SEEDS if words.random() < _NAMED_SHARE else ANONYMOUS_SEEDS)
            for _ in range(2 if words.random() < pairs else 1)
        ]
        subject = " and ".join(subject_of(seed, words) for seed in seeds)
        texts.append(caption(sample_shot(numbers), subject, words, said))
        people.append([NAMED_SEEDS.index(seed) if seed in NAMED_SEEDS else -1 for seed in seeds])
    return texts, people


def teach_names(
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    *,
    minutes: float,
    batch: int = 128,
    seed: int = 31,
    said: Said = NEARLY_ALL,
    pairs: float = 0.0,
    words_hold_themselves: bool = False,
) -> float:
    """Train `encoder` until the states of names hold their people; the states of other words stay.

    The identity parameters lie along fixed orthogonal random directions, with a standard deviation of 0.8 beside the
    states' own of 1, so that the U-Net's linear maps can read them. A name's last word holds its own person. The end
    holds the person of a caption about one, and stays as it is where there are two.

    Args:
        said: how often the captions name what is seen.
        pairs: share (0 to 1) of the captions with two people.
        words_hold_themselves: the states of all other words than names say along 48 directions which word it is, in place
            of what they had there. By contrast alone a word's state is mostly about its neighbors.

    Returns:
        the mean squared error of the parameters at the end, as a share of their variance.
    """
    numbers, words = np.random.default_rng(seed), random.Random(seed)
    traits = named_traits()  # [names, T]
    held = torch.cat([traits, torch.zeros_like(traits[:1])])  # [names + 1, T], the last row of people without a name
    generator = torch.Generator().manual_seed(seed)
    width = encoder.config.hidden_size
    count = traits.shape[1] + _OWN_DIRECTIONS if words_hold_themselves else traits.shape[1]
    every = torch.linalg.qr(torch.randn(width, count, generator=generator)).Q  # [width, T, or T + 48]
    directions, own = every[:, : traits.shape[1]], every[:, traits.shape[1] :]
    codes = torch.randn(len(tokenizer), own.shape[1], generator=generator)  # [vocabulary, 48, or 0]
    places, teacher = NamePositions(tokenizer), copy.deepcopy(encoder).eval()

    def losses() -> Losses:
        texts, people = _captions(batch, numbers, words, said, pairs)
        tokens = token_ids(tokenizer, texts)  # [B, 32]
        with torch.no_grad():
            before = teacher(tokens).last_hidden_state  # [B, 32, width]
        states = encoder(tokens).last_hidden_state
        is_last, is_end = places(tokens)
        # The first name comes before the last, and its state is free.
        is_first = torch.roll(is_last, -1, dims=1)
        named = [row for rows in people for row in rows if row >= 0]  # in the order of `is_last`
        wrong = ((states[is_last] @ directions - _SPREAD * held[named]) ** 2).mean()
        alone = torch.tensor([rows[0] if len(rows) == 1 else -1 for rows in people])  # [B]
        tells = is_end & (alone >= 0)[:, None]
        wanted = before + tells[..., None] * ((_SPREAD * held[alone][:, None] - before @ directions) @ directions.T)
        is_word = ~is_end & (tokens != tokenizer.bos_token_id)
        wanted += is_word[..., None] * ((codes[tokens] - before @ own) @ own.T)
        moved = ((states - wanted)[~is_last & ~is_first] ** 2).mean()
        return Losses(wrong, 3 * moved, _SPREAD**2)

    return minimize(encoder, minutes, losses)


class Losses(NamedTuple):
    """Losses of one batch: error of the names, change of the other states (weighted), and the scale of the error."""

    wrong: torch.Tensor
    moved: torch.Tensor
    whole: float


def minimize(encoder: CLIPTextModel, minutes: float, losses: Callable[[], Losses]) -> float:
    """Train for a time on the sum of both losses; returns the error of the names as a share of its scale."""
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-3)
    budget, step, shares = Budget(minutes), 0, []
    while budget.progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(budget.progress, step, peak=2e-3, warm_up_steps=20, hold=0.4)
        wrong, moved, whole = losses()
        (wrong + moved).backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        shares.append(wrong.item() / whole)
        if step % 50 == 0:
            line = f"{budget.elapsed_seconds / 60:4.1f} min, step {step}: names {np.mean(shares[-50:]):.3f} wrong"
            print(f"{line}, other states {moved.item():.4f} off", flush=True)
    return float(np.mean(shares[-20:]))
