"""The gallery of a run: one picture of every person for the prompt that is chosen, read from each person's prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from faceid_core.report.contact_sheet import fitted
from faceid_core.report.rendering import render
from faceid_core.report.synthetic_mark import SyntheticMark, marked_jpeg

SIDE = 96  # pixels of a picture in a strip
_MOST_PROMPTS = 400  # a JPEG is 65,535 pixels wide at most


def strip(pictures: Sequence[np.ndarray], mark: SyntheticMark) -> bytes:
    """Pictures of one person side by side, as one JPEG file.

    Args:
        pictures: uint8 [h, w, 3], one for each prompt, in the order of `gallery_page`.
        mark: What the file says of itself.
    """
    tiles = [_tile(each) for each in pictures[:_MOST_PROMPTS]]
    return marked_jpeg(np.concatenate(tiles, axis=1), mark, quality=85)


def _tile(picture: np.ndarray) -> np.ndarray:
    """A picture [h, w, 3] in the middle of a white square."""
    image, tile = fitted(picture, SIDE), np.full((SIDE, SIDE, 3), 255, np.uint8)
    height, width = image.shape[:2]
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    tile[top : top + height, left : left + width] = image
    return tile


def gallery_page(
    *,
    run_id: str,
    prompts: Sequence[str],
    people: Sequence[Mapping],
    seed: int,
    index_url: str,
    left_out: int = 0,
) -> bytes:
    """One HTML file that holds no picture and no script; the choice of a prompt moves each person's strip.

    Args:
        run_id: The run.
        prompts: Their texts, in the order of the strips.
        people: `identity_key`, `weak`, `url` of the person's page and `strip`, the address of the person's pictures.
        seed: Of the pictures.
        index_url: Address of the run's index.
        left_out: How many more people the run has.
    """
    return render(
        "gallery.html",
        run_id=run_id,
        prompts=prompts[:_MOST_PROMPTS],
        people=people,
        seed=seed,
        side=SIDE,
        index_url=index_url,
        left_out=left_out,
    )
