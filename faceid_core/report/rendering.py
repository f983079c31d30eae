"""Rendering of pages: the template engine, and the score table with floor and ceiling that pages share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any, cast

from jinja2 import Environment, PackageLoader, StrictUndefined

from faceid_core.report.figures import BY_COLUMN, DASH, FIGURES, Figure, duration, number
from faceid_core.report.likeness import percent


@cache
def _engine() -> Environment:
    # Escape every template, .css too: names and reasons come from outside.
    engine = Environment(
        loader=PackageLoader("faceid_core.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # jinja2 annotates the mapping by what it puts there itself.
    shared = cast(dict[str, Any], engine.globals)
    shared.update(number=number, duration=duration, figures=BY_COLUMN, percent=percent)
    return engine


def render(template: str, **values) -> bytes:
    """A page as UTF-8 bytes."""
    return _engine().get_template(template).render(**values).encode("utf-8")


def score_table(columns: Sequence[Mapping | None]) -> list[dict]:
    """The lines of the score table in which anything was measured.

    Args:
        columns: Summary rows of the person, the floor and the ceiling; None for one that is absent.
    """
    person, floor, ceiling = columns
    lines = []
    for figure in FIGURES:
        cells = [_plain(figure, row) for row in columns]
        if cells == [DASH] * 3:
            continue
        whole = figure.text(person)
        lines.append(
            {
                "name": figure.name,
                "meaning": figure.meaning,
                "person": cells[0],
                "interval": whole[len(cells[0]) :].strip() if whole != cells[0] else "",
                "floor": _plain(figure, floor),
                "ceiling": _plain(figure, ceiling),
            }
        )
    return lines


def _plain(figure: Figure, row: Mapping | None) -> str:
    """A figure without its interval."""
    return DASH if row is None else number(row.get(figure.column), percent=figure.percent)


def mean_row(rows: Sequence[Mapping]) -> dict | None:
    """The mean of each figure over summary rows; None for no rows."""
    if not rows:
        return None
    means = {}
    for figure in FIGURES:
        values = [row[figure.column] for row in rows if row.get(figure.column) is not None]
        means[figure.column] = fmean(values) if values else None
    return means
