"""What tuning people's tokens come to on pictures: likeness, obedience and the photo's clothes, by the selection set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from faceid_core.diffusion.base import BaseModel
from faceid_core.evaluate.cells import Cell
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.evaluate.grid import load_grid
from faceid_core.evaluate.metrics import score
from faceid_core.evaluate.pictures import Pictures
from faceid_core.evaluate.scorers import load_scorers
from faceid_core.evaluate.shards import ShardRow
from faceid_core.miniature.samples import portrait
from faceid_core.personalize.tokens import IdentityTokens

STEPS, GUIDANCE, BATCH = 12, 4.0, 32


@dataclass(frozen=True)
class Scores:
    """Means over one person's pictures.

    Attributes:
        identity: cosine to the photo, 0 where no face is found. concepts: share of what was asked for that is seen.
        clothes: share of pictures that wear the photo's clothes unasked.
    """

    identity: float
    concepts: float
    clothes: float


def make_judge(
    base: BaseModel, *, every: int = 3, seeds: int = 2
) -> Callable[[int, IdentityTokens | str], Scores]:
    """A function of a person's seed and what stands for V*: draws part of the grid `laboratory` and looks at it.

    Args:
        every: only each so-manieth prompt of the grid.
        seeds: pictures of each prompt.
    """
    scorers = load_scorers("miniature-selection")
    prompts = load_grid("laboratory").prompts[::every]
    cells = [(prompt, seed) for prompt in prompts for seed in range(seeds)]

    def judge(person: int, subject: IdentityTokens | str) -> Scores:
        requests = [DrawRequest(subject, prompt.text, seed) for prompt, seed in cells]
        drawn = draw(base, requests, steps=STEPS, guidance=GUIDANCE, batch=BATCH, record_attention=False)
        rows = [
            ShardRow.of(Cell(prompt, seed, "tuning", "0" * 64), picture.image, None)
            for (prompt, seed), picture in zip(cells, drawn, strict=True)
        ]
        pictures = Pictures(rows, scorers)
        photo = portrait(person)
        about = {"prompts": prompts, "class_word": "person", "scorers": scorers}
        alike = [row.value or 0.0 for row in score("identity", pictures, reference=photo, **about)
                 if row.metric == "identity"]  # fmt: skip
        obeyed = [
            row.value
            for row in score("concepts", pictures, **about)
            if row.metric == "concepts" and row.value is not None
        ]
        leaked = score("leakage", pictures, reference=photo, **about)
        worn = [row.value for row in leaked if row.metric == "leakage:clothes" and row.value is not None]
        return Scores(float(np.mean(alike)), float(np.mean(obeyed)), float(np.mean(worn)))

    return judge


def mean_scores(each: Sequence[Scores]) -> Scores:
    """The mean over people."""
    return Scores(*np.mean([(one.identity, one.concepts, one.clothes) for one in each], axis=0))
