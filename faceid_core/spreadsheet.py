"""Text in CSV files that a spreadsheet opens."""

from __future__ import annotations

from typing import Any

# A spreadsheet takes text that begins with one of these for a formula, which can read files and call addresses.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def for_spreadsheets(value: Any) -> Any:
    """The value; a text that would be taken for a formula has an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
