"""The report's plots, as SVG: training curves, identity against concept accuracy, a figure between floor and ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from faceid_core.report import svg

CURVES = {"loss_diffusion": "diffusion loss", "loss_attention": "attention loss"}
# A screen shows no more points than these; fewer points keep the page small.
_MOST_POINTS = 400
# More people are shown as a density: their points would cover each other.
_MOST_PEOPLE, _FIELDS = 100, (32, 20)


@dataclass(frozen=True)
class _Frame:
    """A rectangle of the drawing with the range of values that it shows."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = self.x, self.y
        return (
            self.left + (x - x0) / (x1 - x0) * (self.right - self.left),
            self.bottom - (y - y0) / (y1 - y0) * (self.bottom - self.top),
        )

    def axes(self) -> list[Markup]:
        """Grid lines and their numbers."""
        drawn = []
        for value in svg.ticks(*self.y, about=4):
            _, y = self.at(self.x[0], value)
            drawn += [
                svg.line(self.left, y, self.right, y, "grid"),
                svg.text(self.left - 6, y + 4, svg.tick_text(value), anchor="end"),
            ]
        for value in svg.ticks(*self.x, about=6):
            x, _ = self.at(value, self.y[0])
            drawn += [
                svg.line(x, self.bottom, x, self.bottom + 4, "axis"),
                svg.text(x, self.bottom + 17, svg.tick_text(value)),
            ]
        return [*drawn, svg.line(self.left, self.bottom, self.right, self.bottom, "axis")]


def _widened(values: Sequence[float], *, least: float = 1e-6) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = max((high - low) * 0.08, least)
    return low - margin, high + margin


def curve_plot(curve: Sequence[Mapping[str, float]], series: Mapping[str, str] = CURVES) -> Markup:
    """Training losses by step, one panel for each, faint as measured and bold as a running mean.

    Args:
        curve: a row for each step with `step` and the losses.
        series: column of the curve to its name; columns that the curve lacks are left out.
    """
    shown = [name for name in series if any(row.get(name) is not None for row in curve)]
    if not shown:
        return Markup("")
    width, panel = 640, 150
    drawn: list[Markup] = []
    for index, name in enumerate(shown):
        points = [(row["step"], row[name]) for row in curve if row.get(name) is not None]
        steps, values = np.array(points, np.float64).T
        values = np.where(np.isfinite(values), values, np.nan)
        finite = values[np.isfinite(values)]
        if not len(finite):
            continue
        top = index * panel + 24
        # Cut off single extreme steps, which would flatten the rest of the curve.
        high = max(float(np.percentile(finite, 99)) * 1.08, 1e-9)
        frame = _Frame(
            56, top, width - 12, top + panel - 58, (0.0, max(float(steps.max()), 1.0)), (0.0, high)
        )
        drawn += [svg.text(frame.left, top - 9, series[name], anchor="start", css="label"), *frame.axes()]
        for track, css in ((values, f"raw s{index}"), (_running_mean(values), f"mean s{index}")):
            kept = np.unique(np.linspace(0, len(steps) - 1, _MOST_POINTS).astype(int))
            places = [
                frame.at(float(steps[k]), min(float(track[k]), high)) for k in kept if np.isfinite(track[k])
            ]
            drawn.append(svg.polyline(places, css))
    height = len(shown) * panel + 8
    drawn.append(svg.text(width / 2, height - 2, "training step", css="label"))
    return svg.drawing(width, height, "training curve: " + ", ".join(series[name] for name in shown), *drawn)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over about a tenth of the curve around each step, NaN left out."""
    half = max(1, len(values) // 20)
    padded = np.pad(values, half, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)  # [steps, 2 half + 1]
    counts = np.isfinite(windows).sum(1)
    return np.where(counts > 0, np.nansum(windows, 1) / np.maximum(counts, 1), np.nan)


def is_density(rows: Sequence[Mapping]) -> bool:
    """Whether `identity_concepts_plot` shows how many people lie where, in place of a point for each."""
    return sum(row["subject_kind"] == "person" for row in rows) > _MOST_PEOPLE


def identity_concepts_plot(rows: Sequence[Mapping], links: Mapping[str, str] | None = None) -> Markup:
    """Each subject by concept accuracy (x) and identity similarity (y), with intervals.

    Horizontal lines show the floor (class word) and the ceiling (mean of the named people). People of a good run lie
    high and far to the right. Of more than 100 people the density is shown.

    Args:
        rows: of `evaluate.summary.summarize`.
        links: identity key to the address of the person's page.
    """
    links = links or {}
    shown = [
        row
        for row in rows
        if row.get("concepts_obeyed") is not None and row.get("identity_similarity") is not None
    ]
    if not shown:
        return Markup("")
    width, height, as_density = 640, 400, is_density(shown)
    ends = [
        row.get(f"identity_similarity{end}") for row in shown for end in ("", "_low", "_high")
        if (row["subject_kind"] == "person" and not as_density) or not end
    ]  # fmt: skip
    frame = _Frame(
        56, 18, width - 16, height - 46,
        _widened([100 * row["concepts_obeyed"] for row in shown], least=4.0),
        _widened([value for value in ends if value is not None], least=0.02),
    )  # fmt: skip
    drawn = frame.axes()
    for kind, name, css in (
        ("named", "people whom the model knows", "ceiling"),
        ("class_word", "class word", "floor"),
    ):
        values = [row["identity_similarity"] for row in shown if row["subject_kind"] == kind]
        if values:
            _, y = frame.at(frame.x[0], float(np.mean(values)))
            drawn += [
                svg.line(frame.left, y, frame.right, y, css),
                svg.text(
                    frame.left + 6, y - 6, f"{name}: {np.mean(values):.3f}", anchor="start", css="label"
                ),
            ]
    if as_density:
        drawn = _density(frame, [row for row in shown if row["subject_kind"] == "person"]) + drawn
    for kind in ("named", "class_word") if as_density else ("named", "class_word", "person"):
        drawn += [
            _point(frame, row, links.get(row["identity_key"])) for row in shown if row["subject_kind"] == kind
        ]
    drawn += [
        svg.text((frame.left + frame.right) / 2, height - 8, "concept accuracy, % of pictures", css="label"),
        svg.text(frame.left - 44, 11, "identity similarity", anchor="start", css="label"),
    ]
    return svg.drawing(
        width, height, "identity similarity against concept accuracy, with floor and ceiling", *drawn, is_group=True
    )


def _density(frame: _Frame, rows: Sequence[Mapping]) -> list[Markup]:
    """Fields of the plane, the more opaque the more people lie in them."""
    points = np.array([(100 * row["concepts_obeyed"], row["identity_similarity"]) for row in rows])
    counts, xs, ys = np.histogram2d(*points.T, bins=_FIELDS, range=(frame.x, frame.y))
    drawn = []
    for i, j in zip(*np.nonzero(counts), strict=True):
        (left, bottom), (right, top) = frame.at(xs[i], ys[j]), frame.at(xs[i + 1], ys[j + 1])
        people = int(counts[i, j])
        title = svg.element(
            "title",
            f"{people} {'person' if people == 1 else 'people'}: concept accuracy {xs[i]:.0f} to {xs[i + 1]:.0f} %, "
            f"identity {ys[j]:.2f} to {ys[j + 1]:.2f}",
        )
        opacity = 0.15 + 0.85 * float(np.sqrt(people / counts.max()))
        place = {"x": float(left), "y": float(top), "width": float(right - left), "height": float(bottom - top)}
        drawn.append(svg.element("rect", title, **place, fill_opacity=opacity, _class="field"))
    return drawn


def _point(frame: _Frame, row: Mapping, link: str | None) -> Markup:
    kind = row["subject_kind"]
    x, y = frame.at(100 * row["concepts_obeyed"], row["identity_similarity"])
    name = row["identity_key"][:8] if kind == "person" else str(row["subject"])
    parts = [
        svg.element(
            "title",
            f"{name}: identity {row['identity_similarity']:.3f}, "
            f"concept accuracy {100 * row['concepts_obeyed']:.0f} %",
        )
    ]
    if kind == "person":
        low, high = (row.get(f"identity_similarity{end}") for end in ("_low", "_high"))
        if low is not None and high is not None:
            (_, y0), (_, y1) = (frame.at(frame.x[0], value) for value in (low, high))
            parts.append(svg.line(x, y0, x, y1, "whisker"))
    parts.append(svg.element("circle", cx=x, cy=y, r={"person": 6, "class_word": 6, "named": 4}[kind]))
    group = svg.element("g", *parts, _class=f"point {kind}")
    return svg.element("a", group, href=link) if link else group


def scale_bar(
    value: float | None,
    low: float | None,
    high: float | None,
    floor: float | None,
    ceiling: float | None,
) -> Markup:
    """One figure with its interval between floor and ceiling; empty if one of the three is unknown."""
    if value is None or floor is None or ceiling is None or ceiling <= floor:
        return Markup("")
    width, height, inset = 300, 44, 26
    span = ceiling - floor
    start, end = min(floor, value) - 0.06 * span, max(ceiling, value) + 0.06 * span

    def x(point: float) -> float:
        return inset + (min(max(point, start), end) - start) / (end - start) * (width - 2 * inset)

    drawn = [
        svg.line(x(floor), 16, x(ceiling), 16, "track"),
        svg.line(x(floor), 9, x(floor), 23, "floor-end"),
        svg.line(x(ceiling), 9, x(ceiling), 23, "ceiling-end"),
        svg.text(x(floor), 38, f"floor {floor:.2f}"),
        svg.text(x(ceiling), 38, f"ceiling {ceiling:.2f}"),
    ]
    if low is not None and high is not None:
        drawn.append(svg.line(x(low), 16, x(high), 16, "range"))
    drawn.append(svg.element("circle", cx=x(value), cy=16, r=6, _class="mark"))
    return svg.drawing(
        width, height, f"{value:.3f} between floor {floor:.3f} and ceiling {ceiling:.3f}", *drawn, css="bar"
    )
