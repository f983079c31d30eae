"""Base models: loading, freezing and describing the text-to-image network on which people are learned.

`describe` imports no model library; `load_base_model` does, so it is imported at its first use.
"""

from __future__ import annotations

from typing import Any

from faceid_core.weights.describe import MINIATURE, Description

__all__ = ["MINIATURE", "BaseModel", "Description", "load_base_model"]


def __getattr__(name: str) -> Any:
    if name in ("BaseModel", "load_base_model"):
        from . import base

        return getattr(base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
