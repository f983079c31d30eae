"""Scores tuning people's tokens with the selection set: identity, concept accuracy and leaked clothes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from faceid_core.diffusion.base import BaseModel
from faceid_core.evaluate.cells import Cell
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.evaluate.grid import load_grid
from faceid_core.evaluate.metrics import MetricRow, score
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
        identity: cosine to the photo, 0 where no face is found.
        concepts: concept accuracy.
        clothes: share of pictures that show the photo's clothes although the prompt does not ask for them.
    """

    identity: float
    concepts: float
    clothes: float


def person_evaluator(
    base: BaseModel, *, every: int = 3, seeds: int = 2
) -> Callable[[int, IdentityTokens | str], Scores]:
    """A function that draws part of the grid `laboratory` and scores it.

    Args:
        every: use each `every`-th prompt of the grid.
        seeds: pictures of each prompt.

    Returns:
        maps a person's seed, and the tokens or text that replace V*, to scores.
    """
    scorers = load_scorers("miniature-selection")
    prompts = load_grid("laboratory").prompts[::every]
    cells = [(prompt, seed) for prompt in prompts for seed in range(seeds)]

    def evaluate_person(person: int, subject: IdentityTokens | str) -> Scores:
        requests = [DrawRequest(subject, prompt.text, seed) for prompt, seed in cells]
        drawn = draw(base, requests, steps=STEPS, guidance_scale=GUIDANCE, batch=BATCH, record_attention=False)
        rows = [
            ShardRow.of(Cell(prompt, seed, "tuning", "0" * 64), picture.image, None)
            for (prompt, seed), picture in zip(cells, drawn, strict=True)
        ]
        pictures = Pictures(rows, scorers)
        photo = portrait(person)

        def rows_of(metric: str) -> list[MetricRow]:
            return score(
                metric, pictures, prompts=prompts, reference=photo, class_word="person", scorers=scorers
            )

        identity = [row.value or 0.0 for row in rows_of("identity") if row.metric == "identity"]
        accuracy = [row.value for row in rows_of("concepts") if row.metric == "concepts"]
        clothes = [row.value for row in rows_of("leakage") if row.metric == "leakage:clothes"]
        return Scores(float(np.mean(identity)), _mean(accuracy), _mean(clothes))

    return evaluate_person


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def mean_scores(each: Sequence[Scores]) -> Scores:
    """The mean over people."""
    return Scores(*np.mean([(one.identity, one.concepts, one.clothes) for one in each], axis=0))
