"""Adds names to a text encoder that was already trained together with a U-Net."""

import copy
import random

import numpy as np
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from faceid_core.miniature.captions import caption
from faceid_core.miniature.people import ANONYMOUS_SEEDS, NAMED_SEEDS, name_of
from faceid_core.miniature.renderer import sample_shot
from faceid_core.miniature_training.dataset import subject_of
from faceid_core.miniature_training.names import Losses, NamePositions, minimize, named_traits, token_ids


def _open_captions(count: int, numbers: np.random.Generator, words: random.Random) -> list[str]:
    """Captions with `{}` in the position of the name."""
    return [caption(sample_shot(numbers), "{}", words) for _ in range(count)]


@torch.no_grad()
def fit_trait_effects(
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    traits: torch.Tensor,
    *,
    known: int,
    seed: int,
    captions: int = 6144,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """How a trait changes the states of a known name's last word and of the caption's end.

    Ridge regression of the difference between two names in the same caption on the difference of their traits.

    Returns:
        two maps [T, width], and the share of the differences' variance that they explain (0 to 1).
    """
    numbers, words, places = np.random.default_rng(seed), random.Random(seed), NamePositions(tokenizer)
    inputs, outputs = [], []
    for _ in range(0, captions, 128):
        texts = _open_captions(128, numbers, words)
        pairs = numbers.integers(0, known, (2, len(texts)))
        held = []
        for rows in pairs:
            tokens = token_ids(
                tokenizer, [t.format(name_of(NAMED_SEEDS[r])) for t, r in zip(texts, rows, strict=True)]
            )
            states = encoder(tokens).last_hidden_state
            is_last, is_end = places(tokens)
            end = (states * is_end[..., None]).sum(1) / is_end.sum(1, keepdim=True)
            held.append(torch.cat([states[is_last], end], dim=1))  # [B, 2 width]
        inputs.append(traits[pairs[0]] - traits[pairs[1]])
        outputs.append(held[0] - held[1])
    x, y = torch.cat(inputs), torch.cat(outputs)
    maps = torch.linalg.solve(x.T @ x + 1e-3 * len(x) * torch.eye(x.shape[1]), x.T @ y)  # [T, 2 width]
    explained = 1 - ((y - x @ maps) ** 2).sum() / (y**2).sum()
    last, end = maps.chunk(2, dim=1)
    return last, end, float(explained)


def teach_more_names(
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    *,
    known: int,
    minutes: float,
    batch: int = 128,
    captions: int = 6144,
    seed: int = 37,
) -> float:
    """Teach the names after the first `known` to an encoder that was trained together with a U-Net on those.

    Training with pictures moved the states from where `teach_names` put them. The target state of a new name is
    therefore the state of a known name in the same caption, plus the effect of the difference of their traits as it
    is fitted between known names. All other states, those of known names included, are trained to stay.

    Args:
        known: how many named people the encoder knows, from the first on.
        captions: number of caption pairs that the effects are fitted to.

    Returns:
        the mean squared error of the moved states at the end, as a share of the squares of the moves.

    Raises:
        ValueError: there are no named people beyond `known`.
    """
    if not 1 < known < len(NAMED_SEEDS):
        raise ValueError(
            f"of {len(NAMED_SEEDS)} named people {known} are known already, so there is no name to add or to fit "
            "from; lengthen people.NAMED_SEEDS first, and give their former number with --known"
        )
    numbers, words, places = np.random.default_rng(seed), random.Random(seed), NamePositions(tokenizer)
    traits = named_traits()
    last_map, end_map, explained = fit_trait_effects(
        encoder, tokenizer, traits, known=known, seed=seed, captions=captions
    )
    print(f"traits explain {explained:.2f} of the differences between the states of known names", flush=True)
    teacher = copy.deepcopy(encoder).eval()

    def losses() -> Losses:
        wanted = numbers.integers(0, len(NAMED_SEEDS), batch)
        stand_in = np.where(wanted < known, wanted, numbers.integers(0, known, batch))
        texts = _open_captions(batch, numbers, words)
        subjects = [[name_of(NAMED_SEEDS[row]) for row in rows] for rows in (wanted, stand_in)]
        for index in range(0, batch, 4):  # a quarter is about anonymous people
            subjects[0][index] = subjects[1][index] = subject_of(words.choice(ANONYMOUS_SEEDS), words)
        tokens, like = (
            token_ids(tokenizer, [text.format(name) for text, name in zip(texts, names, strict=True)])
            for names in subjects
        )  # [B, 32] each, with the same words at the same places but for the names
        is_last, is_end = places(tokens)
        apart = traits[wanted] - traits[stand_in]  # [B, T], zero for known names
        apart[::4] = 0
        moves = (
            is_last[..., None] * (apart @ last_map)[:, None] + is_end[..., None] * (apart @ end_map)[:, None]
        )
        with torch.no_grad():
            target = teacher(like).last_hidden_state + moves  # [B, 32, width]
        states = encoder(tokens).last_hidden_state
        # The first word of a name comes before the last, and its state is free.
        is_first = torch.roll(is_last, -1, dims=1)
        error = (states - target) ** 2
        wrong, moved = error[is_last | is_end].mean(), error[~is_last & ~is_end & ~is_first].mean()
        return Losses(wrong, moved, float((moves[is_last | is_end] ** 2).mean()))

    return minimize(encoder, minutes, losses)
