"""What a study's design can detect: people x prompts x seeds, with the spread between people that a table has.

The spread is that of paired differences over people, as they were measured. It has a part that is the people's own and
a part that fewer pictures of each enlarge; a table of one value a person cannot divide the two, so a design with fewer
pictures than the table's has its detectable difference between two bounds: all of it people, all of it pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from faceid_core.errors import ConfigurationError
from faceid_core.evaluate.power import LEVEL, MOST_PEOPLE, POWER, detectable, people_needed

from .compare import PairedDifference, paired_difference
from .definitions import FRAMING_SAID
from .page import COMPARED, MEASURES, NAMES, markdown
from .rows import PERSON, of_condition, read_rows
from .study import Claim, Study
from .verdict import room, turned_pairs

# Pictures of a person in the tables of version 0.1, which do not say it: grid `laboratory`, 40 prompts, x 2 seeds, and
# one seed in `tune`.
_PICTURES_OF_0_1 = {"tune": 40}


@dataclass(frozen=True)
class Design:
    """How much a study measures: people, and pictures of each."""

    people: int
    prompts: int
    seeds: int

    @property
    def pictures(self) -> int:
        """Pictures of a person."""
        return self.prompts * self.seeds

    @property
    def text(self) -> str:
        """As '48 people x 20 prompts x 1 seed'."""
        return f"{self.people} people x {self.prompts} prompts x {self.seeds} seed{'' if self.seeds == 1 else 's'}"


def power_lines(study: Study, design: Design, folder: Path) -> Iterator[str]:
    """What a design can detect in a study, as Markdown.

    Args:
        folder: of the study's table, from which the spread is taken.

    Raises:
        ConfigurationError: there is no such table, or it has no two variants.
    """
    path = folder / f"{study.name}.csv"
    frame = read_rows(path)
    people = frame[frame.kind == PERSON]
    if people.variant.nunique() < 2:
        raise ConfigurationError(
            f"{path} holds no two variants whose differences have a spread; name the folder of a table with --rows"
        )
    titles = {condition.name: condition.title for condition in study.conditions}
    for name in people.condition.unique():
        title = titles.get(name, "") or (FRAMING_SAID.title if FRAMING_SAID in study.conditions else "")
        yield from _condition_lines(study, of_condition(frame, name), design, path, title)
    missing = [
        each.title for each in study.conditions if each.title and not (people.condition == each.name).any()
    ]
    missing = [title for title in missing if title != FRAMING_SAID.title or "" not in set(people.condition)]
    if missing:
        yield f"No rows yet: {', '.join(missing)}; the spread there may be another.\n"


def _condition_lines(
    study: Study, frame: pd.DataFrame, design: Design, path: Path, title: str
) -> Iterator[str]:
    people = frame[frame.kind == PERSON]
    default = study.default if (people.variant == study.default).any() else str(people.variant.iloc[0])
    others = [label for label in dict.fromkeys(people.variant) if label != default]
    stated = people.images.dropna()
    pictures = int(stated.median()) if len(stated) else _PICTURES_OF_0_1.get(study.name, 80)
    widened = math.sqrt(max(1.0, pictures / design.pictures))
    where = f", {title}" if title else ""
    yield f"## {study.name}{where}: {design.text}\n"
    yield (
        f"Differences found with probability {POWER:g} at the {LEVEL:.0%} level, two-sided. Spread of "
        f"{people.subject.nunique()} people with {pictures} pictures each, from {path}. Over several variants: lowest to "
        "highest.\n"
    )
    corrected = f"corrected for {len(others)}"
    header = ["measure", "spread", "detectable", corrected, "if the spread were the pictures'", "room"]
    rows = []
    for measure in COMPARED:
        pairs = [paired_difference(frame, measure, label, default) for label in others]
        spreads = [pair.spread for pair in pairs if pair.spread is not None]
        if not spreads:
            continue
        rooms = [room(frame, measure, label) for label in others]
        rows.append(
            [
                MEASURES[measure],
                _range(spreads),
                _range([detectable(spread, design.people) for spread in spreads]),
                _range([detectable(spread, design.people, level=LEVEL / len(others)) for spread in spreads]),
                _range([detectable(widened * spread, design.people) for spread in spreads]),
                _range(rooms),
            ]
        )
    yield from markdown(header, rows)
    if study.claims:
        yield ""
        header = ["claim", "measure", "over", "spread", "detectable", "room", "seen", "people who decide"]
        yield from markdown(
            header, [row for claim in study.claims for row in _claim_rows(frame, claim, design)]
        )
    yield ""


def _claim_rows(frame: pd.DataFrame, claim: Claim, design: Design) -> Iterator[list[str]]:
    pairs: Mapping[str, PairedDifference] = turned_pairs(frame, claim)
    for label, pair in pairs.items():
        if pair.spread is None:
            continue
        least, possible = detectable(pair.spread, design.people), room(frame, claim.measure, label)
        testable = possible is None or least is None or possible >= least
        needed = people_needed(pair.difference.mean, pair.spread)
        yield [
            claim.statement,
            NAMES[claim.measure],
            label,
            f"{pair.spread:.3f}",
            _range([least]),
            _range([possible]) + ("" if testable else ", **not testable**"),
            f"{pair.difference.mean:+.3f}",
            f"{needed:,}" if needed else f"more than {MOST_PEOPLE:,}",
        ]


def _range(values: Sequence[float | None]) -> str:
    found = sorted(value for value in values if value is not None)
    if not found:
        return ""
    low, high = f"{found[0]:.3f}", f"{found[-1]:.3f}"
    return low if low == high else f"{low} to {high}"
