"""A run downloads nothing: what libraries would fetch by themselves is refused in every worker."""

from __future__ import annotations

import os
import sys
from typing import Any

_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def refuse_downloads() -> None:
    """Make the Hugging Face libraries of this process, and of those it starts, answer from local files alone.

    DeepFace is kept from downloading where it is loaded, see `deepface_files`.
    """
    for name in _SWITCHES:
        os.environ[name] = "1"
    # Its switch is read once, at import.
    constants: Any = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_OFFLINE = True
