"""Two people in one picture, known by name or learned from a photo: are both there, and is each who the prompt says."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from faceid_core.config.presets import PRESETS
from faceid_core.diffusion.base import BaseModel, load_base_model
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.evaluate.pairs import judge_pair
from faceid_core.evaluate.pictures import embed_reference
from faceid_core.evaluate.scorers import Scorers, load_scorers
from faceid_core.miniature.people import NAMED_SEEDS, RARE_SEEDS, name_of
from faceid_core.miniature.samples import POPULATIONS, portrait
from faceid_core.miniature_training.dataset import WIDE
from faceid_core.miniature_training.tune import miniature_prior, training_photos
from faceid_core.personalize.tokens import IdentityTokens
from faceid_core.personalize.trainer import PersonalizeResult, personalize
from faceid_core.studies.definitions import SELECTION_SCORERS

_STEPS, _GUIDANCE, _BATCH, _SIZE = 12, 4.0, 32, 64
_PAIR_PROMPTS = (
    "a photo of V1* and V2*",
    "a photo of V1* and V2* on the beach",
    "a photo of V1* and V2* in a room",
    "the face of V1* and V2*",
)
_SEED = 61


def pairs_drawn(
    base: BaseModel, scorers: Scorers, subjects: Mapping[int, str | IdentityTokens], *, pairs: int = 32
) -> dict[str, float]:
    """Two people in one wide picture: both found, and each face nearer to its own person than to the other.

    Args:
        subjects: by the people's seeds, their names or what was learned of them; they are paired at random.
        pairs: how many.

    Returns:
        shares of pictures: `both found`, `each nearer to its own`, and `in the order of the prompt`.
    """
    choose = random.Random(_SEED)
    chosen = [tuple(choose.sample(list(subjects), 2)) for _ in range(pairs)]
    requests = [
        DrawRequest((subjects[first], subjects[second]), prompt, number)
        for number, (first, second) in enumerate(chosen)
        for prompt in _PAIR_PROMPTS
    ]
    drawn = list(
        draw(
            base,
            requests,
            steps=_STEPS,
            guidance_scale=_GUIDANCE,
            batch=_BATCH,
            size=(_SIZE, WIDE),
            record_attention=False,
        )
    )
    faces = scorers.detector.detect([each.image for each in drawn])
    figures = []
    for index, (picture, found) in enumerate(zip(drawn, faces, strict=True)):
        known = np.stack([_reference(scorers, seed) for seed in chosen[index // len(_PAIR_PROMPTS)]])
        figures.append(judge_pair(scorers, picture.image, found, known))
    return {
        "both found": float(np.mean([each.both_found for each in figures])),
        "each nearer to its own": float(np.mean([each.each_own for each in figures])),
        "in the order of the prompt": float(np.mean([each.in_order for each in figures])),
    }


@cache
def _reference(scorers: Scorers, seed: int) -> np.ndarray:
    """The recognizer's unit vector of a person's portrait."""
    vector = embed_reference(scorers, portrait(seed))
    if vector is None:
        raise ValueError(f"{scorers.name} find no face in the portrait of person {seed}")
    return vector


def measure_pairs(folder: Path, scorers: str, *, people: int = 32) -> dict:
    """Pairs of named people, and of rarely seen ones, of a pipeline folder; `people` pairs of each."""
    base, models = load_base_model(folder), load_scorers(scorers)
    return {
        "pairs": people,
        "named": pairs_drawn(base, models, _names(NAMED_SEEDS), pairs=people),
        "rare": pairs_drawn(base, models, _names(RARE_SEEDS), pairs=people),
    }


def measure_learned_pairs(folder: Path, scorers: str, preset: str, *, people: int = 32) -> dict:
    """Pairs of people learned from a photo each, `people` of both, beside pairs of the named.

    People whom no report has seen, or with the selection set tuning people.
    """
    base, models = load_base_model(folder), load_scorers(scorers)
    seeds = POPULATIONS["tuning" if scorers in SELECTION_SCORERS else "second-held-out"][:people]
    method = PRESETS[preset]
    prior = miniature_prior(base, method) if method.needs_prior else None
    results = list(personalize(base, training_photos(seeds), method, slots=8, prior=prior))
    learned = {int(each.name): each.tokens for each in results if isinstance(each, PersonalizeResult)}
    return {
        "preset": preset,
        "people": len(learned),
        "pairs": people,
        "learned": pairs_drawn(base, models, learned, pairs=people),
        "named": pairs_drawn(base, models, _names(NAMED_SEEDS), pairs=people),
    }


def _names(seeds: Sequence[int]) -> dict[int, str]:
    return {seed: name_of(seed) for seed in seeds}
