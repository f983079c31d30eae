"""A few SVG elements. Plots take their colors from the page, so they follow its light or dark theme."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape


def element(tag: str, *content: str, **attributes) -> Markup:
    """One SVG element; escapes all but Markup. `_` in attribute names stands for `-`.

    Floats have two decimals: enough for a screen, and the same bytes on every machine.
    """
    written = " ".join(
        f'{name.strip("_").replace("_", "-")}="{escape(_plain(value))}"' for name, value in attributes.items()
    )
    inner = Markup("").join(escape(part) for part in content)
    return Markup(f"<{tag} {written}>{inner}</{tag}>" if written else f"<{tag}>{inner}</{tag}>")


def _plain(value) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def drawing(width: int, height: int, label: str, *content: str, css: str = "plot", is_group: bool = False) -> Markup:
    """An SVG picture that scales with the page.

    Args:
        width, height: Of its coordinate system.
        label: What it shows, for screen readers.
        is_group: It holds links or titles of its own, which a plain image would hide.
    """
    return element(
        "svg",
        *content,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        role="group" if is_group else "img",
        aria_label=label,
        _class=css,
    )


def text(x: float, y: float, words: str, *, anchor: str = "middle", css: str = "tick") -> Markup:
    """Text at a point."""
    return element("text", words, x=x, y=y, text_anchor=anchor, _class=css)


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, _class=css)


def polyline(points: Sequence[tuple[float, float]], css: str) -> Markup:
    """A polyline through points."""
    return element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), _class=css)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that divide a range into about so many steps."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if raw <= unit * factor * 1.0001)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A tick's number, as short as it can be."""
    written = f"{value:.4g}"
    return ("0" if float(written) == 0 else written).replace("-", "\N{MINUS SIGN}")
