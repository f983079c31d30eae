"""The sample people: one rendered photo each, of people whom no model was trained on."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from faceid_core.photos import encode_png

from .people import HELD_OUT_SEEDS, NAMED_SEEDS, SAMPLE_SEEDS, TUNING_SEEDS, name_of, person_from_seed
from .renderer import Shot, render

PHOTO_PIXELS = 128
# Sets of people that a run takes by name and number, as in 'miniature:held-out:16'. The first half of
# the held-out people measures the scorers themselves, so studies report on others.
# `held-out` are those of the reports of version 0.1, which saw the first sixteen; `second-held-out` no report has seen.
POPULATIONS = {
    "held-out": HELD_OUT_SEEDS[500:564],
    "second-held-out": HELD_OUT_SEEDS[564:612],
    "tuning": TUNING_SEEDS,
}
# The grid asks for other clothes, and for scenes, which the photos do not show.
_CLOTHES = ("blue shirt", "striped shirt")


def clothes_of(seed: int) -> str:
    """The clothes in a person's photo."""
    return _CLOTHES[seed % len(_CLOTHES)]


def portrait(seed: int, *, pixels: int = PHOTO_PIXELS) -> np.ndarray:
    """The one photo of a person: a close-up in everyday clothes before a plain backdrop, uint8 [pixels, pixels, 3]."""
    shot = Shot(
        framing="face",
        scene=None,
        clothes=clothes_of(seed),
        held=None,
        attributes=frozenset(),
        dx=0.0,
        dy=0.0,
        scale=1.0,
        backdrop_seed=seed,
    )
    return render(person_from_seed(seed), shot, size=pixels).image


def write_samples(folder: str | Path, seeds: range = SAMPLE_SEEDS, *, prefix: str = "sample") -> Path:
    """Write people's photos and their identities.csv; returns the manifest's path.

    Args:
        folder: created if absent; files that differ are replaced.
        seeds: of the people; the sample people's by default.
        prefix: of the identity ids, before the seed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(("identity_id", "photo", "class_word"))
    for seed in seeds:
        name = f"{prefix}-{seed}"
        _write(folder / f"{name}.png", encode_png(portrait(seed)))
        writer.writerow((name, f"{name}.png", "person"))
    manifest = folder / "identities.csv"
    _write(manifest, table.getvalue().encode("utf-8"))
    return manifest


def _write(path: Path, data: bytes) -> None:
    """Write a file unless it holds these bytes, because another run may be reading it."""
    if not path.is_file() or path.read_bytes() != data:
        path.write_bytes(data)


def named_people(count: int) -> Iterator[tuple[str, bytes]]:
    """The first `count` people whom the base model knows: name, and a portrait as PNG to compare pictures with."""
    for seed in NAMED_SEEDS[:count]:
        yield name_of(seed), encode_png(portrait(seed))
