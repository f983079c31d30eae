"""A study's figure: a panel for each measure, a dot with its 95 % interval over people for each variant and condition."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from markupsafe import Markup

from faceid_core.evaluate.intervals import Interval
from faceid_core.report import svg

from .compare import mean_over_people
from .rows import of_condition
from .study import Study

PANELS = {
    "identity_fraction": "identity, floor to ceiling",
    "concepts_fraction": "concepts, of the ceiling's",
    "balance": "balance of the two",
    "leakage_excess": "leakage above the floor",
    "copying": "copying of the photo",
}
_LABELS, _PANEL, _GAP, _ROW, _TOP = 210, 210, 22, 24, 34
# The file stands alone in a page: it brings its own colors, for light and dark.
_STYLE = """
svg { font: 12px system-ui, sans-serif; }
text { fill: #24292f; } .grid { stroke: #d8dee4; } .range { stroke: #0969da; stroke-width: 2; }
circle { fill: #0969da; } .default circle { fill: #bc4c00; } .default .range { stroke: #bc4c00; }
.tick { fill: #57606a; font-size: 11px; } .second circle { fill-opacity: 0.25; stroke: #0969da; }
.second.default circle { stroke: #bc4c00; } .second .range { stroke-dasharray: 3 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .grid { stroke: #30363d; } .range { stroke: #58a6ff; } circle { fill: #58a6ff; }
  .default circle { fill: #f0883e; } .default .range { stroke: #f0883e; } .tick { fill: #8b949e; }
}
"""


def study_figure(study: Study, frame: pd.DataFrame, labels: Sequence[str]) -> str:
    """The figure as a self-contained SVG file.

    Args:
        frame: the study's rows.
        labels: variants to show, from top to bottom.
    """
    drawn: list[Markup] = [svg.element("style", Markup(_STYLE))]
    conditions = [each for each in study.conditions if (frame.condition == each.name).any()]
    rows = {label: _TOP + _ROW * (index + 0.5) for index, label in enumerate(labels)}
    for label, y in rows.items():
        drawn.append(svg.text(_LABELS - 12, y + 4, label, anchor="end", css="label"))
    shown: list[str] = []
    for measure, title in PANELS.items():
        means = {
            (label, condition.name): mean_over_people(of_condition(frame, condition.name), label, measure)
            for label in labels
            for condition in conditions
        }
        means = {key: found for key, found in means.items() if found.mean is not None}
        if means:
            left = _LABELS + len(shown) * (_PANEL + _GAP)
            drawn += _panel(title, means, rows, left, study.default, [each.name for each in conditions])
            shown.append(title)
    width, height = (
        _LABELS + max(len(shown), 1) * (_PANEL + _GAP),
        _TOP + _ROW * len(labels) + (30 if len(conditions) < 2 else 48),
    )
    if len(conditions) > 1:
        legend = f"{conditions[0].title}: full, above; {conditions[1].title}: light, below"
        drawn.append(svg.text(12, height - 6, legend, anchor="start", css="label"))
    words = f"study {study.name}: {'; '.join(shown)}; 95 % intervals over people"
    return str(svg.drawing(width, height, words, *drawn)) + "\n"


def _panel(
    title: str,
    means: dict[tuple[str, str], Interval],
    rows: dict[str, float],
    left: float,
    default: str,
    conditions: list[str],
):
    ends = [end for found in means.values() for end in found if end is not None]
    low, high = min(ends), max(ends)
    margin = max(0.06 * (high - low), 0.01)
    low, high = low - margin, high + margin
    bottom = _TOP + _ROW * len(rows)

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * _PANEL

    yield svg.text(left + _PANEL / 2, _TOP - 14, title, css="label")
    for tick in svg.ticks(low, high, about=4):
        yield svg.line(x(tick), float(_TOP), x(tick), float(bottom), "grid")
        yield svg.text(x(tick), bottom + 16.0, svg.tick_text(tick))
    for (label, condition), found in means.items():
        place = conditions.index(condition)
        y = rows[label] + 5.0 * (2 * place - (len(conditions) - 1))
        assert found.mean is not None, "the caller leaves out what was not measured"
        name = f"{label}, {condition}" if condition else label
        marks = [svg.element("title", f"{name}: {found.mean:.3f}")]
        if found.low is not None and found.high is not None:
            marks.append(svg.line(x(found.low), y, x(found.high), y, "range"))
        marks.append(svg.element("circle", cx=x(found.mean), cy=y, r=4.5))
        kind = "default" if label == default else "variant"
        yield svg.element("g", *marks, _class=f"second {kind}" if place else kind)
