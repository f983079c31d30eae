"""The generator's ceiling: what the people whom it knows by name come to on a prompt grid."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from faceid_core.diffusion.base import load_base_model
from faceid_core.evaluate.cells import Cell
from faceid_core.evaluate.generation import DrawRequest, draw
from faceid_core.evaluate.grid import load_grid
from faceid_core.evaluate.metrics import score
from faceid_core.evaluate.pictures import Pictures, embed_reference
from faceid_core.evaluate.scorers import load_scorers
from faceid_core.evaluate.shards import ShardRow
from faceid_core.miniature.people import NAMED_SEEDS, name_of
from faceid_core.miniature.samples import portrait

GALLERY = 100
_STEPS, _GUIDANCE, _BATCH = 12, 4.0, 32


def measure_ceiling(
    folder: Path | str = "miniature",
    *,
    people: int = 64,
    seeds: int = 4,
    grid: str = "laboratory",
    scorers: str = "miniature",
    precision: str = "float32",
    say: Callable[[str], None] = lambda line: None,
) -> dict:
    """Draw named people over a grid, and count who is recognized and what is obeyed.

    A picture counts as recognized if, of the portraits of `GALLERY` named people, its face is most like that of the
    person asked for; a picture without a face counts as wrong.

    Args:
        folder: of a pipeline, or "miniature" for the shipped one.
        people: how many named people, the first ones.
        seeds: pictures of each prompt.
        grid: name or file of a grid.
        scorers: backend of `evaluate.scorers`.
        say: hears after each person how far the measurement is.

    Returns:
        counts and shares: detection, rank 1, prompts obeyed by category, single concepts by kind, white hair.
    """
    began = time.monotonic()
    base, judge = load_base_model(folder, precision=precision), load_scorers(scorers)
    prompts = load_grid(grid).prompts
    gallery = np.stack(
        [embed_reference(judge, portrait(seed)) for seed in NAMED_SEEDS[: max(GALLERY, people)]]
    )
    tallies: dict[str, list[float]] = defaultdict(list)
    cells = [(prompt, seed) for prompt in prompts for seed in range(seeds)]
    for index, seed in enumerate(NAMED_SEEDS[:people]):
        name = name_of(seed)
        requests = [DrawRequest(name, prompt.text, number) for prompt, number in cells]
        drawn = draw(base, requests, steps=_STEPS, guidance=_GUIDANCE, batch=_BATCH, record_attention=False)
        rows = [
            ShardRow.of(Cell(prompt, number, name, "0" * 64), picture.image, None)
            for (prompt, number), picture in zip(cells, drawn, strict=True)
        ]
        pictures = Pictures(rows, judge)
        alike = np.nan_to_num(pictures.embeddings, nan=0.0) @ gallery.T  # [pictures, gallery]
        found = np.array([face is not None for face in pictures.faces])
        tallies["detection"] += found.astype(float).tolist()
        hits = (alike.argmax(axis=1) == index) & ~np.isnan(pictures.embeddings).any(axis=1)
        tallies[f"rank 1 of {len(gallery)}"] += hits.astype(float).tolist()
        by_id = {prompt.id: prompt for prompt in prompts}
        for row in score("concepts", pictures, prompts=prompts, class_word="person", scorers=judge):
            if row.value is None:
                continue
            prompt = by_id[row.prompt_id]
            if row.metric == "concepts":
                tallies[f"prompts obeyed: {prompt.category}"].append(row.value)
                if "white hair" in prompt.expected.get("attribute", ()) and prompt.category == "attribute":
                    tallies["prompts obeyed: white hair"].append(row.value)
            else:
                tallies[f"concepts named: {row.metric.removeprefix('concepts:')}"].append(row.value)
        say(
            f"{index + 1} of {people} people, rank 1 so far {np.mean(tallies[f'rank 1 of {len(gallery)}']):.3f}"
        )
    return {
        "people": people,
        "pictures": people * len(cells),
        "grid": grid,
        "scorers": scorers,
        "precision": precision,
        **{name: round(float(np.mean(values)), 4) for name, values in sorted(tallies.items())},
        "seconds": round(time.monotonic() - began),
    }
