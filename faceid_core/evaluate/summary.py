"""Aggregates scores: one row per subject with 95 % intervals, beside the floor and the ceiling."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .intervals import NOTHING, Interval, mean_of, over_people, over_pictures
from .leakage import PARTS
from .metric_rows import MetricRows
from .null_reasons import NO_REFERENCE_FACE
from .weak_identity import is_weak_identity

CONCEPT_CATEGORIES = ("scene", "attribute", "action", "clothing", "pair", "mixed")
# Column -> metric, of the metrics that only photographs' scorers measure.
PHOTOGRAPH_METRICS = {
    "identity_accepted": "identity:accepted",
    "identity_second": "identity_second",
    "image_text_second": "image_text_second",
    "diversity": "diversity",
    "attributes_kept": "attributes",
    "flagged": "flagged",
}
_COMPARED_WITH_PHOTO = ("identity_accepted", "identity_second", "attributes_kept")
LEAKAGE_PARTS = tuple(f"leakage_{part}" for part in PARTS)
_DECIMALS = 6


@dataclass(frozen=True)
class SubjectScores:
    """All scores of one subject's pictures.

    Args:
        kind: a person of the run, the class word (floor), or a person whom the base model knows (ceiling).
        subject: the subject in tables: identity key, class word or name.
        class_word: its pictures are this subject's floor.
        scores: rows of all metrics over the subject's own pictures.
        floor: rows of the class word's pictures against this subject's reference photo, of the metrics that
            need one; empty for the class word and for named people.
        images: number of pictures.
        seconds: computing time of a person's stages; None for floor and ceiling, which many runs share.
    """

    kind: Literal["person", "class_word", "named"]
    subject: str
    class_word: str
    scores: MetricRows
    floor: MetricRows = field(default_factory=MetricRows)
    identity_id: str | None = None
    identity_key: str | None = None
    images: int = 0
    seconds: float | None = None
    personalize_key: str | None = None
    generate_key: str | None = None


def summarize(
    subjects: Sequence[SubjectScores], *, run_id: str, run_date: dt.date, categories: Mapping[str, str]
) -> list[dict]:
    """Rows of the table `identity_summary`, one per subject, in the order given.

    A person's normalized identity, column `identity_fraction`, is (person - floor) / (ceiling - floor). The floor is
    the mean of the class word's pictures against the person's photo, the ceiling the mean of this run's named people. A
    picture of the person without a face counts as the floor. The class word's own identity, leakage and copying are
    the means of its people's floors, with the interval over people.

    Args:
        categories: prompt id to category.
    """
    named = [_mean(subject.scores, "identity") for subject in subjects if subject.kind == "named"]
    ceiling = mean_of(_present(named))
    rows = []
    for subject in subjects:
        people: list[SubjectScores] = []
        if subject.kind == "class_word":
            people = [s for s in subjects if s.kind == "person" and s.class_word == subject.class_word]
            identity, leakage = _class_word_identity(people), _class_word_leakage(people)
            copying = over_people(_present(_mean(person.floor, "copying") for person in people))
        else:
            identity, leakage = _identity(subject, ceiling), _leakage(subject)
            copying = _interval(subject.scores.values("copying"))
        rows.append(
            {
                "run_id": run_id,
                "run_date": run_date,
                "identity_id": subject.identity_id,
                "identity_key": subject.identity_key,
                "subject_kind": subject.kind,
                "subject": subject.subject,
                "images": subject.images,
                "seconds": None if subject.seconds is None else round(float(subject.seconds), 3),
                **_rounded(
                    identity
                    | _concept_accuracy(subject.scores, categories)
                    | leakage
                    | _columns("copying", copying)
                    | _photograph_figures(subject, people)
                ),
                "weak": _is_weak(subject),
                "personalise_key": subject.personalize_key,
                "generate_key": subject.generate_key,
            }
        )
    return rows


def _mean(rows: MetricRows, metric: str) -> float | None:
    return mean_of(list(rows.values(metric).values()))


def _interval(values: Mapping[tuple[str, int], float]) -> Interval:
    return over_pictures(list(values.values()), [prompt_id for prompt_id, _ in values])


def _columns(name: str, interval: Interval) -> dict:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _identity(subject: SubjectScores, ceiling: float | None) -> dict:
    values = subject.scores.values("identity")
    floor = subject.floor.values("identity")
    # Only cells in which both pictures have a face measure what the tokens added.
    gain = {cell: value - floor[cell] for cell, value in values.items() if cell in floor}
    similarity = _interval(values)
    figures = _columns("identity_similarity", similarity)
    figures["identity_similarity_counting_faceless"] = identity_counting_faceless(subject.scores)
    figures |= _columns("identity_gain", _interval(gain) if gain else NOTHING)
    figures["identity_fraction"] = _normalized_identity(subject, mean_of(list(floor.values())), ceiling)
    return figures


def _is_weak(subject: SubjectScores) -> bool | None:
    """Whether a person's identity is weak; None for floor and ceiling, and with too few pictures."""
    if subject.kind != "person":
        return None
    values = {
        (row.prompt_id, row.seed): row.value
        for row in subject.scores.rows("identity")
        if row.detail != NO_REFERENCE_FACE.text
    }
    return is_weak_identity(values, subject.floor.values("identity"))


def _normalized_identity(subject: SubjectScores, floor: float | None, ceiling: float | None) -> float | None:
    """A person's normalized identity, with pictures that show no face counted as the floor.

    Without them, a person with a face in one easy picture would score better than one with a face in all.
    """
    values = _comparable(subject.scores)
    if floor is None or not values:
        return None
    mean = sum(floor if value is None else value for value in values) / len(values)
    return normalized_identity(mean, floor, ceiling)


def _class_word_identity(people: Sequence[SubjectScores]) -> dict:
    floors = [_mean(person.floor, "identity") for person in people]
    counting = [identity_counting_faceless(person.floor) for person in people]
    return {
        **_columns("identity_similarity", over_people(_present(floors))),
        "identity_similarity_counting_faceless": mean_of(_present(counting)),
        **_columns("identity_gain", NOTHING),
        "identity_fraction": None,
    }


def _leakage(subject: SubjectScores) -> dict:
    values = subject.scores.values("leakage")
    floor = subject.floor.values("leakage")
    excess = {cell: value - floor[cell] for cell, value in values.items() if cell in floor}
    return {
        **_columns("leakage", _interval(values)),
        "leakage_floor": mean_of(list(floor.values())),
        **_columns("leakage_excess", _interval(excess) if excess else NOTHING),
        **leakage_by_part(subject.scores),
    }


def _class_word_leakage(people: Sequence[SubjectScores]) -> dict:
    whole = over_people(_present(_mean(person.floor, "leakage") for person in people))
    parts = [leakage_by_part(person.floor) for person in people]
    return {
        **_columns("leakage", whole),
        "leakage_floor": whole.mean,
        **_columns("leakage_excess", NOTHING),
        **{name: mean_of(_present(found[name] for found in parts)) for name in LEAKAGE_PARTS},
    }


def leakage_by_part(rows: MetricRows) -> dict[str, float | None]:
    """The rate at which each part of the photo leaked, by the name of its column."""
    return {f"leakage_{part}": _mean(rows, f"leakage:{part}") for part in PARTS}


def _photograph_figures(subject: SubjectScores, people: Sequence[SubjectScores]) -> dict:
    """Figures of the photographs' scorers; the class word is compared with each of its `people`'s photos."""
    found = {}
    for column, metric in PHOTOGRAPH_METRICS.items():
        own = _mean(subject.scores, metric)
        if column in _COMPARED_WITH_PHOTO and people:
            own = mean_of(_present(_mean(person.floor, metric) for person in people))
        found[column] = own
    return found


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def identity_counting_faceless(rows: MetricRows) -> float | None:
    """Mean identity with faceless pictures counted as 0, so that a subject without any face has a value."""
    return mean_of([value or 0.0 for value in _comparable(rows)])


def _comparable(rows: MetricRows) -> list[float | None]:
    """Identity of each picture, None without a face; empty where the photo itself shows none."""
    return [row.value for row in rows.rows("identity") if row.detail != NO_REFERENCE_FACE.text]


def normalized_identity(value: float | None, floor: float | None, ceiling: float | None) -> float | None:
    """(value - floor) / (ceiling - floor): 0 at the floor, 1 at the ceiling; None unless the ceiling is higher."""
    if value is None or floor is None or ceiling is None or ceiling <= floor:
        return None
    return (value - floor) / (ceiling - floor)


def _concept_accuracy(scores: MetricRows, categories: Mapping[str, str]) -> dict:
    accuracy = scores.values("concepts")
    figures = _columns("concepts_obeyed", _interval(accuracy))
    parts = [metric for metric in scores.metrics if metric.startswith("concepts:")]
    single = [value for metric in parts for value in scores.values(metric).values()]
    figures["single_concepts_obeyed"] = mean_of(single)
    for category in CONCEPT_CATEGORIES:
        figures[f"{category}_obeyed"] = mean_of(
            [value for (prompt_id, _), value in accuracy.items() if categories.get(prompt_id) == category]
        )
    figures |= _columns("image_text", _interval(scores.values("image_text")))
    figures["detection"] = _mean(scores, "detection")
    figures["attention_outside"] = _mean(scores, "attention")
    return figures


def _rounded(figures: dict) -> dict:
    return {name: None if value is None else round(value, _DECIMALS) for name, value in figures.items()}


def aggregate(rows: Sequence[Mapping]) -> dict:
    """A run's figures: means with intervals over its people, beside floor and ceiling.

    Args:
        rows: of `summarize`.

    Returns:
        `people`, `named_people`: their number; `people_with_gain`: number of people whose identity is not weak
        (`is_weak_identity`), of the `people_judged` for whom that is known; `over_people`: for each figure a dict with
        mean, low, high, floor (class word) and ceiling (named people); `relative_to_class_word`: for each category,
        concept accuracy as a share of the class word's.
    """
    by_kind = {
        kind: [r for r in rows if r["subject_kind"] == kind] for kind in ("person", "class_word", "named")
    }
    people = by_kind["person"]

    def present(kind: str, name: str) -> list[float]:
        return [row[name] for row in by_kind[kind] if row.get(name) is not None]

    names = (
        "identity_similarity",
        "identity_similarity_counting_faceless",
        "identity_gain",
        "identity_fraction",
        "concepts_obeyed",
        "single_concepts_obeyed",
        *(f"{category}_obeyed" for category in CONCEPT_CATEGORIES),
        "image_text",
        "detection",
        "attention_outside",
        "leakage",
        "leakage_excess",
        *LEAKAGE_PARTS,
        "copying",
        *PHOTOGRAPH_METRICS,
        "seconds",
    )
    figures = {
        name: {
            **_rounded(over_people(present("person", name))._asdict()),
            "floor": mean_of(present("class_word", name)),
            "ceiling": mean_of(present("named", name)),
        }
        for name in names
    }
    relative = {}
    for name in ("concepts_obeyed", *(f"{category}_obeyed" for category in CONCEPT_CATEGORIES)):
        ours, floor = figures[name]["mean"], figures[name]["floor"]
        relative[name] = None if ours is None or not floor else round(ours / floor, _DECIMALS)
    return {
        "people": len(people),
        "named_people": len(by_kind["named"]),
        "people_with_gain": sum(row.get("weak") is False for row in people),
        "people_judged": sum(row.get("weak") is not None for row in people),
        "over_people": figures,
        "relative_to_class_word": relative,
    }
