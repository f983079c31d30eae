"""Section: the base of every section of the configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values cannot change after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=False)
