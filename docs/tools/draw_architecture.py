"""Draw docs/images/architecture.svg from the imports: `python docs/tools/draw_architecture.py [--check]`.

Each box is a room: a package, or a module of faceid_core beside its packages. A room stands above every room that it
imports. Arrows that follow from others are left out, so that the picture shows the order and not each import.
Imports are read from the syntax trees, those inside functions too; nothing is imported.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
PACKAGES = ("flows", "tasks", "faceid_core", "data_contracts")

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 196, 78, 14, 40, 16
LINE_CHARACTERS, MOST_LINES = 34, 4

Edges = Mapping[str, frozenset[str]]


def main(arguments: Iterable[str]) -> int:
    """Write the picture, or with --check compare it; returns the exit status."""
    drawn = draw(ROOT)
    if "--check" not in arguments:
        PICTURE.write_text(drawn, encoding="utf-8")
        return 0
    if PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == drawn:
        return 0
    print(f"{PICTURE.relative_to(ROOT)} is not current: run `python docs/tools/draw_architecture.py`")
    return 1


def draw(root: Path) -> str:
    """Return the picture of a source tree as SVG."""
    edges = imports_between_rooms(root)
    sentences = {room: _sentence(root, room) for room in edges}
    edges, members = _join_small_modules(root, edges)
    for group, rooms in members.items():
        sentences[group] = ", ".join(rooms)
    circles = _circles(edges)
    rows = _rows(edges, circles)
    return _svg(
        rows, _reduced(edges, circles), sentences, {room for c in circles if len(c) > 1 for room in c}
    )


def imports_between_rooms(root: Path) -> dict[str, frozenset[str]]:
    """Map each room to the rooms that any of its modules imports."""
    modules = {_module(root, p) for name in PACKAGES for p in (root / name).rglob("*.py")}
    edges: dict[str, set[str]] = defaultdict(set)
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            importer = _module(root, path)
            room = _room(root, importer)
            if room is None:
                continue
            edges[room] |= {
                other
                for name in _imported(path, importer, modules)
                if (other := _room(root, name)) is not None and other != room
            }
    return {room: frozenset(edges[room]) for room in sorted(edges)}


def _module(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(root: Path, module: str) -> str | None:
    """The room of a module; None for faceid_core itself, which holds only the version."""
    parts = module.split(".")
    if parts[0] != "faceid_core":
        return parts[0] if parts[0] in PACKAGES else None
    if len(parts) == 1:
        return None
    return parts[1] if (root / "faceid_core" / parts[1]).exists() else f"{parts[1]}.py"


def _imported(path: Path, importer: str, modules: set[str]) -> Iterable[str]:
    """Names of project modules that a file imports."""
    package = importer if path.stem == "__init__" else importer.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in modules else base


def _sentence(root: Path, room: str) -> str:
    """The first sentence of the room's docstring."""
    name = room.removesuffix(".py")
    folder = root / name if name in PACKAGES else root / "faceid_core" / name
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())
    return text.split(". ")[0].rstrip(".")


def _join_small_modules(root: Path, edges: Edges) -> tuple[Edges, dict[str, list[str]]]:
    """Join the modules that need no package of faceid_core into one box, so that they do not crowd the last row."""
    small = {room for room in edges if room.endswith(".py")}
    while wrong := {room for room in small if not edges[room] <= small}:
        small -= wrong
    if len(small) < 2:
        return edges, {}
    group = "modules"
    joined = {
        room: frozenset(group if other in small else other for other in others)
        for room, others in edges.items()
        if room not in small
    }
    joined[group] = frozenset()
    return joined, {group: [name.removesuffix(".py") for name in sorted(small)]}


def _circles(edges: Edges) -> list[frozenset[str]]:
    """Strongly connected components: rooms that import each other, and every other room alone."""
    reach = {room: _reachable(edges, room) for room in edges}
    return sorted(
        {frozenset({a} | {b for b in edges if b in reach[a] and a in reach[b]}) for a in edges}, key=sorted
    )


def _reachable(edges: Edges, room: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(edges[room])
    while waiting:
        other = waiting.pop()
        if other not in seen:
            seen.add(other)
            waiting.extend(edges.get(other, ()))
    return seen


def _between(edges: Edges, circles: list[frozenset[str]]) -> dict[frozenset[str], set[frozenset[str]]]:
    home = {room: circle for circle in circles for room in circle}
    return {c: {home[o] for room in c for o in edges[room] if home[o] is not c} for c in circles}


def _rows(edges: Edges, circles: list[frozenset[str]]) -> list[list[str]]:
    """Rooms by the longest chain of rooms that import them: the first row is imported by none."""
    below = _between(edges, circles)
    depth: dict[frozenset[str], int] = {}

    def height(circle: frozenset[str]) -> int:
        if circle not in depth:
            depth[circle] = 1 + max((height(other) for other in below[circle]), default=-1)
        return depth[circle]

    rows: dict[int, list[str]] = defaultdict(list)
    for circle in circles:
        rows[height(circle)] += sorted(circle)
    ordered = [sorted(rows[level]) for level in sorted(rows, reverse=True)]
    # Each room goes below the mean position of the rooms that import it, so that arrows cross less.
    centre = {room: (i + 0.5) / len(ordered[0]) for i, room in enumerate(ordered[0])}
    for row in ordered[1:]:
        wish = {
            room: sum(above) / len(above)
            if (above := [centre[o] for o in sorted(edges) if room in edges[o] and o in centre])
            else 0.5
            for room in row
        }
        row.sort(key=lambda room: (wish[room], room))
        centre |= {room: (i + 0.5) / len(row) for i, room in enumerate(row)}
    return ordered


def _reduced(edges: Edges, circles: list[frozenset[str]]) -> list[tuple[str, str]]:
    """Arrows that do not follow from others; of rooms in a circle all that stay within it."""
    home = {room: circle for circle in circles for room in circle}
    arrows = []
    for room, others in sorted(edges.items()):
        far = {o: _reachable(edges, o) for o in others}
        for other in sorted(others):
            if home[other] is home[room] or not any(
                other in far[o] and home[o] not in (home[room], home[other]) for o in others
            ):
                arrows.append((room, other))
    return arrows


def _svg(
    rows: list[list[str]], arrows: list[tuple[str, str]], sentences: Mapping[str, str], circular: set[str]
) -> str:
    widest = max(len(row) for row in rows)
    width = 2 * MARGIN + widest * (BOX_WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + len(rows) * (BOX_HEIGHT + GAP_Y) - GAP_Y
    place = {}
    for level, row in enumerate(rows):
        left = (width - len(row) * (BOX_WIDTH + GAP_X) + GAP_X) / 2
        for index, room in enumerate(row):
            place[room] = (left + index * (BOX_WIDTH + GAP_X), MARGIN + level * (BOX_HEIGHT + GAP_Y))
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-family="sans-serif">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#78909c"/></marker></defs>',
        f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
    ]
    arrow_lines, boxes = [], []
    for a, b in arrows:
        (xa, ya), (xb, yb) = place[a], place[b]
        x1, x2 = xa + BOX_WIDTH / 2, xb + BOX_WIDTH / 2
        y1, y2 = (ya + BOX_HEIGHT, yb) if yb > ya else (ya, yb + BOX_HEIGHT)
        bend = (y2 - y1) / 2
        # An arrow that skips rows is dashed and passes behind the boxes between them.
        dashes = ' stroke-dasharray="5 4"' if abs(y2 - y1) > GAP_Y else ""
        arrow_lines.append(
            f'<path d="M{x1:.0f} {y1:.0f}C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}" '
            f'fill="none" stroke="#90a4ae" stroke-width="1.2"{dashes} marker-end="url(#head)"/>'
        )
    for room, (x, y) in sorted(place.items()):
        outside = room in PACKAGES
        fill, edge = ("#e3f2fd", "#1e88e5") if outside else ("#f5f5f5", "#607d8b")
        edge = "#d32f2f" if room in circular else edge
        name = room if outside or room == "modules" else f"faceid_core/{room}"
        boxes.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5" '
            f'fill="{fill}" stroke="{edge}"/>'
        )
        boxes.append(
            f'<text x="{x + 8:.0f}" y="{y + 16:.0f}" font-size="12" font-weight="bold">{escape(name)}</text>'
        )
        for number, line in enumerate(_wrapped(sentences[room])):
            boxes.append(
                f'<text x="{x + 8:.0f}" y="{y + 31 + 12 * number:.0f}" font-size="10" fill="#37474f">'
                f"{escape(line)}</text>"
            )
    return "\n".join([*head, *arrow_lines, *boxes, "</svg>", ""])


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, LINE_CHARACTERS, max_lines=MOST_LINES, placeholder=" …")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
