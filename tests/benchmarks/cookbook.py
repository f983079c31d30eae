"""The statements of docs/cookbook.md, by name."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "cookbook.md"


def questions() -> dict[str, str]:
    """Name -> SQL of every question on the page."""
    found = re.findall(r"^```sql\n-- ([a-z-]+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return dict(found)
