"""The sample people: one rendered photo each, of people whom no model of the miniature world was trained on."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from faceid_core.photos import encode_png

from .people import NAMED_SEEDS, SAMPLE_SEEDS, name_of, person_from_seed
from .renderer import Shot, render

PHOTO_PIXELS = 128
# The grid asks for other clothes than these, and for scenes, which the photos do not have.
_CLOTHES = ("blue shirt", "striped shirt")


def clothes_of(seed: int) -> str:
    """What a person wears in the one photo."""
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


def write_samples(folder: str | Path, seeds: range = SAMPLE_SEEDS) -> Path:
    """Write the sample people's photos and their identities.csv; returns the manifest's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in seeds:
        name = f"sample-{seed}"
        (folder / f"{name}.png").write_bytes(encode_png(portrait(seed)))
        rows.append((name, f"{name}.png", "person"))
    manifest = folder / "identities.csv"
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("identity_id", "photo", "class_word"))
        writer.writerows(rows)
    return manifest


def named_people(count: int) -> Iterator[tuple[str, bytes]]:
    """The first `count` people whom the base model knows: name, and a portrait as PNG to compare pictures with."""
    for seed in NAMED_SEEDS[:count]:
        yield name_of(seed), encode_png(portrait(seed))
