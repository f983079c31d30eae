"""Section: the base of every section of the configuration."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

# A path of this machine, or an address; `~` at its beginning is the home of the user who parses it, as in a shell.
LocalPath = Annotated[str, AfterValidator(os.path.expanduser)]

_NUMBER = re.compile(r"[+-]?[0-9]+([.][0-9]*)?")


def date_as_text(value: Any) -> Any:
    """Refuse a date that is written as a number: it would be taken for seconds since 1970.

    Raises:
        ValueError: it is one, or text that holds one.
    """
    if isinstance(value, int | float) or (isinstance(value, str) and _NUMBER.fullmatch(value.strip())):
        raise ValueError(f"{value} is a number; write the date as in 2026-11-20")
    return value


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values cannot change after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=False)
