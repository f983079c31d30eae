"""A study's rows: one per condition, variant and person, with floor and ceiling, kept as CSV that sessions extend."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from faceid_core.errors import ConfigurationError
from faceid_core.evaluate.intervals import mean_of
from faceid_core.evaluate.summary import CONCEPT_CATEGORIES
from faceid_core.private import READABLE_MODE, replaced

from .compare import balance

PERSON, FLOOR, CEILING = "person", "floor", "ceiling"
_KINDS = {"person": PERSON, "class_word": FLOOR, "named": CEILING}

CONCEPT_ACCURACIES = tuple(f"{category}_obeyed" for category in CONCEPT_CATEGORIES)

# Taken from identity_summary as they are; those that a run did not measure stay empty.
_FROM_SUMMARY = (
    "identity_fraction",
    "identity_similarity",
    "identity_gain",
    "concepts_obeyed",
    *CONCEPT_ACCURACIES,
    "image_text",
    "detection",
    "attention_outside",
    "leakage",
    "leakage_low",
    "leakage_high",
    "leakage_floor",
    "copying",
)
FIGURES = (
    "images",
    "balance",
    "concepts_fraction",
    *_FROM_SUMMARY,
    "leakage_excess",
    "seconds",
    "samples",
    "restarted",
)
_WORDS = ("condition", "variant", "kind", "subject")
_ORIGIN = ("device", "run_id", "variant_digest", "settings_digest")


def columns_of(figures: Sequence[str]) -> tuple[str, ...]:
    """The columns of a study's table with these figures."""
    return (*_WORDS, *figures, *_ORIGIN)


def study_rows(
    variant: str, summary: Sequence[Mapping], origins: Mapping[str, Mapping], *, condition: str = ""
) -> list[dict]:
    """The rows that one run adds to a study.

    Floor and ceiling are the same for every variant and condition: they stand without either.

    Args:
        variant: label.
        condition: its name.
        summary: rows of `evaluate.summary.summarize`.
        origins: by identity id, of persons: device, run_id, samples, restarted.
    """
    obeyed = [row["concepts_obeyed"] for row in summary if row["subject_kind"] == "named"]
    ceiling = mean_of([value for value in obeyed if value is not None])
    rows = []
    for row in summary:
        kind = _KINDS[row["subject_kind"]]
        concepts = row["concepts_obeyed"]
        figures = {name: row.get(name) for name in ("images", *_FROM_SUMMARY)}
        figures["concepts_fraction"] = None if concepts is None or not ceiling else concepts / ceiling
        figures["leakage_excess"] = _excess(row)
        if kind == PERSON:
            figures["balance"] = balance(figures["identity_fraction"], figures["concepts_fraction"])
            figures["seconds"] = row["seconds"]
        words = {
            "condition": condition if kind == PERSON else "",
            "variant": variant if kind == PERSON else "",
            "kind": kind,
            "subject": row["identity_id"] if kind == PERSON else row["subject"],
        }
        rows.append({**words, **figures, **(origins.get(row["identity_id"], {}) if kind == PERSON else {})})
    return rows


def unlearnable_row(variant: str, person: str, origin: Mapping, *, condition: str = "") -> dict:
    """The row of a person whom the variant could not learn, or (samples above 0) whose pictures are of one color.

    It is as far from the ceiling as the class word.
    Left out, the worst people would drop out of means and comparisons, and a setting at which most people diverge could
    be chosen for the few who did not.
    """
    figures = {"identity_fraction": 0.0, "balance": 0.0, "samples": 0}
    words = {"condition": condition, "variant": variant, "kind": PERSON, "subject": person}
    return {**words, **figures, **origin}


def _excess(row: Mapping) -> float | None:
    if row.get("leakage_excess") is not None:
        return row["leakage_excess"]
    if row.get("leakage") is None or row.get("leakage_floor") is None:
        return None
    return row["leakage"] - row["leakage_floor"]


def read_rows(path: Path, figures: Sequence[str] = FIGURES) -> pd.DataFrame:
    """A study's CSV, with every column; empty if there is no such file. Raises ConfigurationError for another file."""
    words: dict[Hashable, type[str]] = {name: str for name in (*_WORDS, *_ORIGIN)}
    if not path.is_file():
        return frame_of([], figures)
    try:
        kept = pd.read_csv(path, dtype=words, keep_default_na=False, na_values={n: [""] for n in figures},
                           float_precision="round_trip")  # fmt: skip
        return frame_of(kept.to_dict("records"), figures)
    except (ValueError, OSError) as error:  # no rows, another encoding, a word in the place of a figure
        raise ConfigurationError(f"{path} is not the table of a study: {error}") from None


def frame_of(rows: Sequence[Mapping], figures: Sequence[str] = FIGURES) -> pd.DataFrame:
    """Rows as a frame with all columns in their order; what is missing is NaN in figures and empty in words."""
    frame = pd.DataFrame(list(rows), columns=list(columns_of(figures)))
    frame[list(figures)] = frame[list(figures)].astype(float)
    names = [*_WORDS, *_ORIGIN]
    frame[names] = frame[names].astype(object).where(frame[names].notna(), "")
    return frame


def write_rows(path: Path, frame: pd.DataFrame) -> None:
    """Write the CSV in one step, so that an interruption leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path, READABLE_MODE) as file:
        frame.to_csv(file, index=False, lineterminator="\n")


def merge_rows(
    earlier: pd.DataFrame,
    rows: Sequence[Mapping],
    order: Sequence[str],
    conditions: Sequence[str] = ("",),
    figures: Sequence[str] = FIGURES,
) -> pd.DataFrame:
    """Earlier rows with new ones in their place: a variant measured again in a condition replaces itself.

    Args:
        order: labels of the study, the order of the result within a condition.
        conditions: names of the study's conditions, in their order.
        figures: columns of the table.
    """
    new = frame_of(rows, figures)
    measured = set(zip(new.condition, new.variant, strict=True))
    again = [key in measured for key in zip(earlier.condition, earlier.variant, strict=True)]
    kept = earlier[[not each for each in again]]
    both = pd.concat([part for part in (kept, new) if not part.empty]) if len(kept) + len(new) else new
    places = {"": -1, **{label: place for place, label in enumerate(order)}}
    # Floor and ceiling first, which have neither variant nor condition.
    whole = {"": -1, **{name: place for place, name in enumerate(conditions)}}
    kinds = {FLOOR: 0, CEILING: 1, PERSON: 2}
    keys = both.assign(
        _condition=both.condition.map(whole), _place=both.variant.map(places), _kind=both.kind.map(kinds)
    )
    keys = keys.sort_values(["_condition", "_place", "_kind", "subject"], kind="stable")
    return keys.drop(columns=["_condition", "_place", "_kind"]).reset_index(drop=True)


def of_condition(frame: pd.DataFrame, condition: str) -> pd.DataFrame:
    """The rows of one condition, with floor and ceiling, which all conditions share."""
    return frame[(frame.condition == condition) | (frame.kind != PERSON)]


def refuse_record(path: Path) -> None:
    """Refuse to write over a table of version 0.1, which has no conditions: it is a dated record.

    Raises:
        ConfigurationError: the table is one.
    """
    if path.is_file() and b"condition" not in path.read_bytes().partition(b"\n")[0].strip().split(b","):
        raise ConfigurationError(
            f"{path} is a table of version 0.1, the record of what was published then, and is not written over; "
            "give another folder with --out"
        )


def require_same_settings(
    frame: pd.DataFrame, settings: str, variants: Mapping[tuple[str, str], str], *, path: Path
) -> None:
    """Refuse rows that were measured otherwise than this session would.

    Args:
        settings: digests of everything but the variant that decides a row, as 'name=digest name=digest'.
        variants: digest of each variant of the study by condition and label.

    Raises:
        ConfigurationError: with what differs, and what to do.
    """
    expected = {("", ""): "", **variants}
    parts = {
        part
        for digests in frame.settings_digest.unique()
        for part in set(digests.split()) - set(settings.split())
    }
    differ = sorted({part.partition("=")[0].replace("_", " ") for part in parts})
    changed = sorted(
        {
            label
            for condition, label, digest in set(
                zip(frame.condition, frame.variant, frame.variant_digest, strict=True)
            )
            if expected.get((condition, label)) != digest
        }
    )
    found = [f"other {', '.join(differ)}"] if differ else []
    found += [f"another method in {', '.join(map(repr, changed))}"] if changed else []
    if found:
        raise ConfigurationError(
            f"{path} holds rows measured with {' and '.join(found)}; they cannot stand in one table with this "
            "session's. Use the same settings, another --out, or --fresh to drop the earlier rows"
        )
