"""Measures a recognizer's cosines for pairs of one person and of two, as `evaluate/calibrations.yaml` holds them.

    python -m tests.helpers.calibrate photographs FOLDER Dlib   # FOLDER as tests.helpers.public_photographs writes it
    python -m tests.helpers.calibrate published CSV VGG-Face    # distances that deepface publishes for its test pictures
    python -m tests.helpers.calibrate miniature miniature       # the set of scorers of that name

tests/data/photograph_people.csv says who is shown: by the folders and names in the repositories, and in deepface's by its
lists of pairs. Printed is YAML: quantiles alone, no picture and no embedding.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

PEOPLE = Path(__file__).parents[1] / "data" / "photograph_people.csv"
SHARES = (0, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1)
# Renderer seeds of people whom nothing was trained on and no study has seen.
_MINIATURE_PEOPLE, _MINIATURE_PICTURES = range(70_001, 70_061), 4


def photographs(folder: Path, recognizer: str) -> tuple[np.ndarray, list[str]]:
    """Unit vectors [n, d] of the people's photographs, found by dlib, and who is shown."""
    from faceid_core import photos
    from faceid_core.evaluate.pictures import crop_face, has_eyes, largest_face
    from faceid_core.evaluate.recognizers import load_recognizer
    from faceid_core.faces.backends import load_faces

    with PEOPLE.open() as stream:
        people = {row["sha256"]: row["person"] for row in csv.DictReader(stream)}
    detector, model = load_faces("deepface", model="dlib")[0], load_recognizer(recognizer)
    crops, owners = [], []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        person = people.get(hashlib.sha256(data).hexdigest())
        if person is None:
            continue
        image = photos.decode(data)
        face = largest_face(detector.detect([image])[0])
        if face is not None and has_eyes(face):
            crops.append(crop_face(image, face, model.cut.pixels, model.cut.eyes))
            owners.append(person)
    return model.embed(crops), owners


def miniature(backend: str) -> tuple[np.ndarray, list[str]]:
    """Unit vectors [n, d] of pictures of the renderer's people, and whose they are."""
    from faceid_core.evaluate.pictures import embed_faces, has_eyes, largest_face
    from faceid_core.evaluate.scorers import load_scorers
    from faceid_core.miniature.people import person_from_seed
    from faceid_core.miniature.renderer import render, sample_shot

    scorers, seen, owners = load_scorers(backend), [], []
    for seed in _MINIATURE_PEOPLE:
        draw, person = np.random.default_rng([seed, 9]), person_from_seed(seed)
        for number in range(_MINIATURE_PICTURES):
            image = render(person, sample_shot(draw, framing="half" if number % 2 else "face")).image
            face = largest_face(scorers.detector.detect([image])[0])
            if face is not None and has_eyes(face):
                seen.append((image, face))
                owners.append(str(seed))
    return embed_faces(scorers, seen), owners


def pairs_of(vectors: np.ndarray, owners: Sequence[str]) -> tuple[list[float], list[float]]:
    """Cosines of all pairs of one person, and of two people."""
    same: list[float] = []
    different: list[float] = []
    for (one, first), (two, second) in itertools.combinations(zip(vectors, owners, strict=True), 2):
        (same if first == second else different).append(float(one @ two))
    return same, different


def published(table: Path, recognizer: str) -> tuple[list[float], list[float]]:
    """Cosines from deepface's table of cosine distances (tests/unit/dataset/face-recognition-pivot.csv)."""
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    cosines = [(row["decision"] == "Yes", 1 - float(row[f"{recognizer}_cosine"])) for row in rows]
    return [cosine for same, cosine in cosines if same], [cosine for same, cosine in cosines if not same]


def as_yaml(name: str, same: Sequence[float], different: Sequence[float], source: str) -> Iterator[str]:
    """The lines of one calibration."""
    yield f"{name}:"
    yield f"  source: {source}"
    for kind, cosines in (("same", same), ("different", different)):
        found = ", ".join(f"{share}: {np.quantile(cosines, share):.4f}" for share in SHARES)
        yield f"  {kind}: {{pairs: {len(cosines)}, quantiles: {{{found}}}}}"


def main(how: str, where: str, name: str = "") -> None:
    """Print one calibration."""
    if how == "published":
        same, different = published(Path(where), name)
        source = "distances that deepface publishes for its test pictures, faces cut by deepface"
    else:
        vectors, owners = miniature(where) if how == "miniature" else photographs(Path(where), name)
        same, different = pairs_of(vectors, owners)
        of = "drawn people, faces and half figures" if how == "miniature" else "people in public photographs"
        source = f"{len(owners)} pictures of {len(set(owners))} {of}"
    print("\n".join(as_yaml(name or where, same, different, source)))


if __name__ == "__main__":
    main(*sys.argv[1:])
