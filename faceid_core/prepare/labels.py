"""Compares what became of photos with what people say of them: how many good ones are lost, how many wrong ones pass."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faceid_core.errors import InputContractError
from faceid_core.geometry.protocols import Point
from faceid_core.prepare.check import CheckedPhoto

# Good portraits are to be accepted, photos of `either` may be; all others are to be rejected.
GOOD, EITHER = "good", "either"
_EYES = ("left_eye_x", "left_eye_y", "right_eye_x", "right_eye_y")
# Eyes further off than this share of their distance count as misplaced.
MOST_EYE_ERROR = 0.1


@dataclass(frozen=True)
class Label:
    """What a person says of a photo.

    Args:
        label: good, either, or why the photo is to be rejected, in any word.
        eyes: (left, right) in pixels of the upright photo, or None.
    """

    label: str
    eyes: tuple[Point, Point] | None = None


@dataclass(frozen=True)
class LabelSummary:
    """What became of the photos of one label.

    Args:
        photos: their number.
        accepted: how many are usable.
        misplaced: of those with labeled eyes, how many have an eye off by more than `MOST_EYE_ERROR`.
        masks_ok: of the usable ones, how many have a mask that is ok.
        reasons: of the rejected ones.
    """

    label: str
    photos: int
    accepted: int
    misplaced: int
    masks_ok: int
    reasons: Mapping[str, int]


def read_labels(path: Path) -> dict[str, Label]:
    """Read a labels file: a CSV with the columns sha256 and label, and optionally the four of the eyes.

    Returns:
        labels by the photo's SHA-256.

    Raises:
        InputContractError: the file cannot be read, lacks a column, or has a cell that is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = {"sha256", "label"} - set(reader.fieldnames or ())
            if missing:
                raise InputContractError(str(path), [f"has no column {name}" for name in sorted(missing)])
            return {(row["sha256"] or "").strip().lower(): _label(path, reader.line_num, row) for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputContractError(str(path), [f"cannot be read as CSV: {error}"]) from error


def _label(path: Path, line: int, row: Mapping[str, str | None]) -> Label:
    cells = [(row.get(name) or "").strip() for name in _EYES]
    try:
        numbers = [float(cell) for cell in cells if cell]
    except ValueError:
        raise InputContractError(str(path), [f"line {line}: an eye is not a number"]) from None
    eyes = ((numbers[0], numbers[1]), (numbers[2], numbers[3])) if len(numbers) == len(_EYES) else None
    return Label((row["label"] or "").strip(), eyes)


def summarize(labels: Mapping[str, Label], checked: Iterable[CheckedPhoto]) -> list[LabelSummary]:
    """What became of the labeled photos, by label, the good ones first.

    Args:
        labels: by the photo's SHA-256.
        checked: results; photos without a label are left out, and of copies of one photo one is counted.
    """
    by_label: dict[str, list[tuple[Label, CheckedPhoto]]] = {}
    for digest, outcome in {one.photo_digest: one for one in checked}.items():
        if digest in labels:
            by_label.setdefault(labels[digest].label, []).append((labels[digest], outcome))
    found = []
    for label in sorted(by_label, key=lambda name: (name != GOOD, name == EITHER, name)):
        rows = by_label[label]
        usable = [(said, one) for said, one in rows if one.outcome == "usable"]
        errors = [eye_error(said.eyes, one.eyes) for said, one in usable if said.eyes and one.eyes]
        found.append(
            LabelSummary(
                label,
                len(rows),
                len(usable),
                sum(error > MOST_EYE_ERROR for error in errors),
                sum(bool(one.figures.get("mask_ok")) for _, one in usable),
                Counter(one.reason for _, one in rows if one.outcome != "usable"),
            )
        )
    return found


def eye_error(labeled: tuple[Point, Point], found: tuple[Point, Point]) -> float:
    """The larger distance of an eye from its label, in labeled eye distances."""
    true, seen = np.array(labeled), np.array(found)
    return float(np.linalg.norm(seen - true, axis=1).max() / np.linalg.norm(true[1] - true[0]))
