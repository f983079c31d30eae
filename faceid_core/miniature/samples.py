"""The sample people: one rendered photo each, of people whom no model was trained on."""

import csv
import functools
import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from faceid_core.photos import encode_png

from .concepts import CLOTHES
from .people import HELD_OUT_SEEDS, NAMED_SEEDS, SAMPLE_SEEDS, TUNING_SEEDS, name_of, person_from_seed
from .renderer import Shot, render, sample_shot

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
    return render(person_from_seed(seed), _shot_of(seed), size=pixels).image


def _shot_of(seed: int) -> Shot:
    return Shot(
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


def other_portraits(seed: int, count: int, *, pixels: int = PHOTO_PIXELS) -> list[np.ndarray]:
    """Other pictures of a person, made as the photo was: close-ups before plain backdrops.

    Clothes, backdrop, place and size differ from the photo's and from one to the next; face and hair are the person's.

    Returns:
        each uint8 [pixels, pixels, 3].
    """
    rng = np.random.default_rng([seed, 7])
    others = [clothes for clothes in CLOTHES if clothes != clothes_of(seed)]
    person, drawn = person_from_seed(seed), []
    for number in range(count):
        shot = replace(
            sample_shot(rng, framing="face"),
            scene=None,
            attributes=frozenset(),
            clothes=others[number % len(others)],
        )
        drawn.append(render(person, shot, size=pixels).image)
    return drawn


def seed_of_name(name: str) -> int | None:
    """The seed of a person whom the base model knows by this name; None if it knows none."""
    return next((seed for seed in NAMED_SEEDS if name_of(seed) == name), None)


def seed_of_photo(digest: str) -> int | None:
    """The seed of the person whose `portrait` has this SHA-256, of the sample people and the sets of `POPULATIONS`.

    The bytes prove who is on a photo; an id would not, because a photo can be exchanged. None for any other photo.
    """
    return _seeds_by_digest().get(digest)


@functools.cache
def _seeds_by_digest() -> dict[str, int]:
    seeds = [*SAMPLE_SEEDS, *(seed for those in POPULATIONS.values() for seed in those)]
    return {hashlib.sha256(encode_png(portrait(seed))).hexdigest(): seed for seed in seeds}


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
