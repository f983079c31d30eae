"""What the report's pages are made of in tests: scores, and pictures of one synthetic person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from faceid_core.evaluate.cells import DrawSettings, grid_cells
from faceid_core.evaluate.grid import Prompt, PromptGrid
from faceid_core.evaluate.metric_rows import MetricRow, MetricRows
from faceid_core.evaluate.shards import ShardRow
from faceid_core.miniature.people import person_from_seed
from faceid_core.miniature.renderer import Rendered, Shot, render

SEEDS = (0, 1)


class Person(NamedTuple):
    """A person's photo, pictures at every prompt and two seeds, and an attention map of 16 x 16."""

    photo: Rendered
    pictures: list[ShardRow]
    attention: np.ndarray


def made_person(grid: PromptGrid) -> Person:
    """The same person with the same pictures each time."""
    settings = DrawSettings(base="b", sampler="x", steps=1, guidance_scale=1.0, precision="float32", version=1)
    person = person_from_seed(200_001)
    pictures = [
        ShardRow.of(cell, render(person, Shot(framing="half", scene="snow", backdrop_seed=index)).image)
        for index, cell in enumerate(grid_cells(grid, SEEDS, settings, subject="tokens"))
    ]
    heat = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    return Person(render(person, Shot()), pictures, heat)


def made_scores(
    prompts: Sequence[Prompt], seed: int, identity: float, accuracy: float, *more: tuple[str, float, str]
) -> MetricRows:
    """Scores about an identity and a concept accuracy, by a seed; `more` metrics have one value, with its detail."""
    draws = np.random.default_rng(seed)
    rows = []
    for prompt in prompts:
        for number in SEEDS:
            hit = float(draws.random() < accuracy)
            rows += [
                MetricRow(prompt.id, number, "identity", round(float(draws.normal(identity, 0.05)), 6)),
                MetricRow(prompt.id, number, "concepts", hit, "" if hit else "missed scene"),
                MetricRow(prompt.id, number, "concepts:scene", hit, "night"),
                MetricRow(prompt.id, number, "detection", 1.0),
                *(MetricRow(prompt.id, number, metric, value, detail) for metric, value, detail in more),
            ]
    return MetricRows.of(rows)
