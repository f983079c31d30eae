"""Measures the generator's ceiling: recognition and concept accuracy of its named people on a prompt grid."""

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
    progress: Callable[[str], None] = lambda line: None,
) -> dict:
    """Draw named people over a grid; measure recognition and concept accuracy.

    A picture is recognized if its face is most similar to the portrait of its own person among those of `GALLERY` named
    people; a picture without a face is not.

    Args:
        folder: of a pipeline, or "miniature" for the shipped one.
        people: how many named people, the first ones.
        seeds: pictures of each prompt.
        grid: name or file of a grid.
        scorers: backend of `evaluate.scorers`.
        progress: receives a line after each person.

    Returns:
        counts and shares: detection, rank 1, concept accuracy by prompt category and by kind, white hair.
    """
    began = time.monotonic()
    base, models = load_base_model(folder, precision=precision), load_scorers(scorers)
    prompts = load_grid(grid).prompts
    references = [embed_reference(models, portrait(seed)) for seed in NAMED_SEEDS[: max(GALLERY, people)]]
    if any(vector is None for vector in references):
        raise ValueError(f"{scorers} find no face in a named person's portrait; train the detector longer")
    gallery = np.stack([vector for vector in references if vector is not None])  # [people, d]
    tallies: dict[str, list[float]] = defaultdict(list)
    cells = [(prompt, seed) for prompt in prompts for seed in range(seeds)]
    for index, seed in enumerate(NAMED_SEEDS[:people]):
        name = name_of(seed)
        requests = [DrawRequest(name, prompt.text, number) for prompt, number in cells]
        drawn = draw(base, requests, steps=_STEPS, guidance_scale=_GUIDANCE, batch=_BATCH, record_attention=False)
        rows = [
            ShardRow.of(Cell(prompt, number, name, "0" * 64), picture.image, None)
            for (prompt, number), picture in zip(cells, drawn, strict=True)
        ]
        pictures = Pictures(rows, models)
        similarities = np.nan_to_num(pictures.embeddings, nan=0.0) @ gallery.T  # [pictures, gallery]
        found = np.array([face is not None for face in pictures.faces])
        tallies["detection"] += found.astype(float).tolist()
        hits = (similarities.argmax(axis=1) == index) & ~np.isnan(pictures.embeddings).any(axis=1)
        tallies[f"rank 1 of {len(gallery)}"] += hits.astype(float).tolist()
        by_id = {prompt.id: prompt for prompt in prompts}
        for row in score("concepts", pictures, prompts=prompts, class_word="person", scorers=models):
            if row.value is None:
                continue
            prompt = by_id[row.prompt_id]
            if row.metric == "concepts":
                tallies[f"concept accuracy: {prompt.category}"].append(row.value)
                if "white hair" in prompt.expected.get("attribute", ()) and prompt.category == "attribute":
                    tallies["concept accuracy: white hair"].append(row.value)
            else:
                tallies[f"concept accuracy by kind: {row.metric.removeprefix('concepts:')}"].append(row.value)
        progress(
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
