"""Measures the scorers on held-out people: `python -m faceid_core.miniature_training.measure_scorers`."""

from __future__ import annotations

import argparse
import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from faceid_core.errors import MissingWeights
from faceid_core.geometry.align import TRAINING_EYE_TARGETS, align, similarity, targets_in_pixels
from faceid_core.geometry.classes import CLASSES, REGIONS
from faceid_core.miniature import people, reporting_scorers, scorers
from faceid_core.miniature.captions import caption
from faceid_core.miniature.concepts import ATTRIBUTES, FRAMINGS
from faceid_core.miniature.renderer import render_group, render_scene, sample_shot
from faceid_core.miniature.scorer_geometry import warp
from faceid_core.miniature_training.measure_recognition import error_by_kind, kinds_of_pairs, recognition
from faceid_core.miniature_training.scorer_data import (
    CLOTHES_ANSWERS,
    HELD_ANSWERS,
    SCENE_ANSWERS,
    Renders,
    augment_appearance,
    render_people,
)
from faceid_core.miniature_training.scorer_tasks import change_one_thing, facts_of_shot

SHOTS_SEED = 77
SETS = {"reporting": reporting_scorers, "selection": scorers}
SCORERS = ("recognizer", "image_text", "detector", "parser")
ImageFilter = Callable[[np.ndarray], np.ndarray]


def measure_recognizer(
    renders: Renders, images: np.ndarray, chosen: ModuleType = reporting_scorers, *, gallery: int = 100
) -> dict:
    """Recognition with the renderer's eyes, and with those of the set's detector where it found a face.

    Args:
        images: uint8 [n, 64, 64, 3], the renders, possibly filtered.
        chosen: of `SETS`.
        gallery: number of people in the gallery.
    """
    recognizer = chosen.load_recognizer()
    eyes = renders.eyes.reshape(-1, 2, 2)
    crops = [
        scorers.recognizer_crop(image, tuple(left), tuple(right))
        for image, (left, right) in zip(images, eyes, strict=True)
    ]
    rows = np.arange(len(images))
    found = {"true_eyes": (rows, recognizer.embed(crops))}
    with contextlib.suppress(MissingWeights):
        faces = chosen.load_detector().detect(list(images))
        seen = np.array([row for row in rows if faces[row]])
        vectors = recognizer.embed_faces([images[row] for row in seen], [faces[row][0] for row in seen])
        found["detected_eyes"] = seen, vectors
    report: dict[str, dict[str, Any]] = {}
    for name, (seen, vectors) in found.items():
        owners = renders.seeds[seen]
        report[name] = dict(recognition(vectors, owners, gallery=gallery))
        report[name]["equal_error_rate_by_kind"] = error_by_kind(
            vectors, owners, kinds_of_pairs(renders, seen)
        )
    return report


def measure_image_text(renders: Renders, images: np.ndarray, chosen: ModuleType = reporting_scorers) -> dict:
    """Accuracy of each concept by framing, and the count of each confusion."""
    shown = chosen.load_image_text().concepts(list(images))
    report: dict = {}
    confusions: Counter = Counter()

    def grade(name: str, answers: list, true: list) -> None:
        for framing, label in enumerate(FRAMINGS):
            rows = np.flatnonzero(renders.framing == framing)
            pairs = [(answers[row], true[row]) for row in rows if true[row] != "unclear"]
            report[f"{name} ({label})"] = float(np.mean([given == real for given, real in pairs]))
            confusions.update((name, label, real, said) for said, real in pairs if said != real)

    grade("scene", [concepts.scene for concepts in shown], [SCENE_ANSWERS[index] for index in renders.scene])
    grade("held", [concepts.held for concepts in shown], [HELD_ANSWERS[index] for index in renders.held])
    clothes = ["unclear" if index < 0 else CLOTHES_ANSWERS[index] for index in renders.clothes_seen]
    grade("clothes", [concepts.clothes for concepts in shown], clothes)
    for column, name in enumerate(ATTRIBUTES):
        grade(
            name, [name in concepts.attributes for concepts in shown], renders.attributes[:, column].tolist()
        )
    report["pictures"] = len(images)
    report["confusions"] = [
        {"concept": concept, "framing": framing, "true": real, "named": said, "times": times}
        for (concept, framing, real, said), times in confusions.most_common()
    ]
    return report


def measure_texts(
    renders: Renders, images: np.ndarray, chosen: ModuleType = reporting_scorers
) -> dict[str, float]:
    """How often a picture's caption scores higher than the same caption with one false change.

    A change that only removes words leaves the caption true and does not count.
    """
    scorer, rng = chosen.load_image_text(), random.Random(SHOTS_SEED)
    shots = [renders.shot(index) for index in range(len(renders))]
    changed = [change_one_thing(shot, rng) for shot in shots]
    is_false = np.array(
        [
            (facts_of_shot(change) & ~facts_of_shot(shot)).any()
            for shot, change in zip(shots, changed, strict=True)
        ]
    )
    true = scorer.score(list(images), [caption(shot, "person") for shot in shots])
    other = scorer.score(list(images), [caption(change, "person") for change in changed])
    named = scorer.score(list(images), [caption(shot, "quill marwood") for shot in shots])
    return {
        "true text above false one": float((true > other)[is_false].mean()),
        "mean distance of the two": float((true - other)[is_false].mean()),
        "shift by an unknown name, mean": float(np.abs(named - true).mean()),
    }


def overlap_of_regions(labels: np.ndarray, truth: np.ndarray, region: str) -> float:
    """Mean intersection over union of a mask region over pictures [n, h, w] in which it is not empty."""
    wanted = [CLASSES.index(name) for name in REGIONS[region]]
    told, real = np.isin(labels, wanted), np.isin(truth, wanted)
    shared, either = (told & real).sum((1, 2)), (told | real).sum((1, 2))
    return float((shared[either > 0] / either[either > 0]).mean())


def measure_parser(
    renders: Renders, images: np.ndarray, chosen: ModuleType = reporting_scorers
) -> dict[str, float]:
    """Overlap of the mask regions and accuracy by class, on whole pictures and on aligned crops."""
    parser = chosen.load_parser()
    report = {}
    targets = targets_in_pixels(TRAINING_EYE_TARGETS, 64)
    crops, truth = [], []
    for image, labels, (left, right) in zip(
        images, renders.labels, renders.eyes.reshape(-1, 2, 2), strict=True
    ):
        crops.append(align(image, tuple(left), tuple(right), size=64)[0])
        truth.append(warp(labels, similarity((left, right), targets), nearest=True))
    for name, pictures, real in (("whole", images, renders.labels), ("aligned", crops, np.stack(truth))):
        labels = parser.parse(list(pictures))
        for region in ("face", "face_hair"):
            report[f"{region} overlap ({name})"] = overlap_of_regions(labels, real, region)
        report[f"pixels right ({name})"] = float((labels == real).mean())
    return report


def measure_detector(
    renders: Renders, images: np.ndarray, filtered: ImageFilter, chosen: ModuleType = reporting_scorers
) -> dict:
    """Detection rate, error of the eyes, and false detections in pictures without people."""
    detector = chosen.load_detector()
    found = detector.detect(list(images))
    report: dict = {"found": float(np.mean([len(faces) > 0 for faces in found]))}
    report["exactly one"] = float(np.mean([len(faces) == 1 for faces in found]))
    distances, spans, kinds = [], [], []
    for index, faces in enumerate(found):
        if not faces:
            continue
        detected = np.array(faces[0].eyes)
        real = renders.eyes[index].reshape(2, 2)
        distances.append(np.linalg.norm(detected - real, axis=1).mean())
        spans.append(np.linalg.norm(real[1] - real[0]))
        kinds.append((int(renders.framing[index]), *renders.attributes[index, [0, 3]].tolist()))
    errors = np.array(distances)
    for framing, label in enumerate(FRAMINGS):
        rows = np.array([kind[0] == framing for kind in kinds])
        report[f"eye error, mean pixels ({label})"] = float(errors[rows].mean())
        report[f"eye error, share of eye distance ({label})"] = float((errors / np.array(spans))[rows].mean())
    for column, label in ((1, "eyes closed"), (2, "glasses")):
        report[f"eye error, mean pixels ({label})"] = float(errors[[kind[column] for kind in kinds]].mean())
    report["eye error, 99th percentile pixels"] = float(np.quantile(errors, 0.99))
    rng = np.random.default_rng(SHOTS_SEED)
    empty = np.stack([render_scene(sample_shot(rng)).image for _ in range(1000)])
    report["false finds, scenes"] = _share_with_face(detector, list(filtered(empty)))
    noise = rng.integers(0, 256, (200, 96, 128, 3), dtype=np.uint8)
    flat = np.broadcast_to(rng.integers(0, 256, (200, 1, 1, 3), dtype=np.uint8), (200, 80, 80, 3))
    report["false finds, noise and flat colors"] = _share_with_face(detector, [*noise, *flat])
    pairs = rng.choice(people.HELD_OUT_SEEDS, (300, 2))
    groups = [
        render_group([people.person_from_seed(int(seed)) for seed in pair], sample_shot(rng)).image
        for pair in pairs
    ]
    counts = [len(faces) for faces in detector.detect(list(filtered(np.stack(groups))))]
    report["groups of two: both found"] = float(np.mean([count == 2 for count in counts]))
    return report


def _share_with_face(detector: scorers.MiniatureDetector, images: Sequence[np.ndarray]) -> float:
    return float(np.mean([len(faces) > 0 for faces in detector.detect(images)]))


def measure(
    persons: int, shots_each: int, filtered: ImageFilter, which: Sequence[str], chosen: ModuleType
) -> dict:
    """Scorers of one set on held-out people.

    Args:
        persons: how many of `people.HELD_OUT_SEEDS`.
        shots_each: pictures of each.
        filtered: applied to all pictures [n, 64, 64, 3] first, such as an autoencoder's round trip.
        which: of `SCORERS`.
        chosen: of `SETS`.
    """
    renders = render_people(people.HELD_OUT_SEEDS[:persons], shots_each, seed=SHOTS_SEED)
    images = filtered(renders.images)
    report: dict = {}
    if "recognizer" in which:
        report["recognizer"] = measure_recognizer(renders, images, chosen)
    if "image_text" in which:
        report["image_text"] = measure_image_text(renders, images, chosen)
        report["image_text"] |= measure_texts(renders, images, chosen)
    if "detector" in which:
        report["detector"] = measure_detector(renders, images, filtered, chosen)
    if "parser" in which:
        report["parser"] = measure_parser(renders, images, chosen)
    return report


def main() -> None:
    """Read the command line, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scorers", nargs="*", choices=[*SCORERS, []], help="which (default all)")
    parser.add_argument("--set", choices=sorted(SETS), default="reporting", help="whose (default reporting)")
    parser.add_argument("--persons", type=int, default=200)
    parser.add_argument(
        "--shots", type=int, default=10, help="pictures of each person, half of them close-ups"
    )
    parser.add_argument("--rough", action="store_true", help="soften and disturb the pictures first")
    arguments = parser.parse_args()
    rng = np.random.default_rng(SHOTS_SEED)

    def filtered(images: np.ndarray) -> np.ndarray:
        return augment_appearance(images, rng) if arguments.rough else images

    which, chosen = arguments.scorers or SCORERS, SETS[arguments.set]
    report = measure(arguments.persons, arguments.shots, filtered, which, chosen)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
