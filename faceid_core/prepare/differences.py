"""Compares what two settings make of the same photos: outcomes, reasons, and how far apart they see the eyes."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from faceid_core.prepare.check import CheckedPhoto
from faceid_core.prepare.labels import MOST_EYE_ERROR, eye_error
from faceid_core.private import owner_only
from faceid_core.spreadsheet import for_spreadsheets

TABLE = "differences.csv"


@dataclass(frozen=True)
class Difference:
    """A photo of which two settings make different things.

    Args:
        first, second: outcome and reason.
        first_sentence, second_sentence: for the photo's supplier.
        eyes_apart: the larger distance between the two answers for one eye, in eye distances; None unless both accept.
    """

    identity_id: str
    file: str
    first: str
    second: str
    first_sentence: str
    second_sentence: str
    eyes_apart: float | None


def outcome_of(one: CheckedPhoto) -> str:
    """Outcome and reason in one text."""
    return f"{one.outcome}: {one.reason}" if one.reason else one.outcome


def differences(
    first: Sequence[CheckedPhoto], second: Mapping[str, CheckedPhoto], files: Mapping[str, str]
) -> list[Difference]:
    """The photos that two settings judge differently, or whose eyes they see in different places.

    Args:
        first: results of the first settings.
        second: of the other ones, by identity id; photos that are missing in either are left out.
        files: by identity id, the name of the photo's file.
    """
    found = []
    for one in first:
        other = second.get(one.identity_id)
        if other is None:
            continue
        apart = eye_error(one.eyes, other.eyes) if one.eyes and other.eyes else None
        if outcome_of(one) == outcome_of(other) and (apart is None or apart <= MOST_EYE_ERROR):
            continue
        name = files.get(one.identity_id, one.identity_id)
        rounded = None if apart is None else round(apart, 3)
        sentences = one.sentence, other.sentence
        found.append(
            Difference(one.identity_id, name, outcome_of(one), outcome_of(other), *sentences, rounded)
        )
    return found


def count_pairs(
    first: Sequence[CheckedPhoto], second: Mapping[str, CheckedPhoto]
) -> list[tuple[str, str, int]]:
    """How many photos have which two outcomes, the most frequent first."""
    pairs = Counter(
        (outcome_of(one), outcome_of(second[one.identity_id])) for one in first if one.identity_id in second
    )
    return [(mine, other, count) for (mine, other), count in pairs.most_common()]


def write_differences(folder: Path, found: Sequence[Difference]) -> None:
    """Write differences.csv."""
    with open(folder / TABLE, "w", newline="", encoding="utf-8", opener=owner_only) as stream:
        writer = csv.writer(stream)
        writer.writerow(each.name for each in fields(Difference))
        writer.writerows(map(for_spreadsheets, astuple(each)) for each in found)
