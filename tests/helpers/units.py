"""systemd's units of infra/systemd, read for tests."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

UNITS = sorted((Path(__file__).parents[2] / "infra" / "systemd").glob("*.service"))


def settings_of(unit: Path) -> dict[str, dict[str, list[str]]]:
    """Section -> setting -> its values in order; a setting may stand several times.

    Raises:
        ValueError: a line is no setting.
    """
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith(("#", ";")):
            continue
        if line.startswith("["):
            section = sections[line.strip("[]")] = defaultdict(list)
            continue
        name, equals, value = line.partition("=")
        if not equals or line.endswith("\\"):
            raise ValueError(f"{unit.name}: {line!r} is no setting on a line of its own")
        section[name].append(value)
    return sections
