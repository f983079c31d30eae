"""Replace a function of ours in every module that has imported it by name."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

_PACKAGES = ("faceid_core", "flows", "tasks")


def replace_everywhere(patch: pytest.MonkeyPatch, function: Callable, replacement: Callable) -> None:
    """Let every loaded module of ours call the replacement.

    Args:
        patch: Undoes it.
        function: As its module has it; modules name it by its own name.
        replacement: Takes the same arguments.
    """
    for name, module in list(sys.modules.items()):
        known = getattr(module, function.__name__, None)
        if name.split(".")[0] in _PACKAGES and known is function:
            patch.setattr(module, function.__name__, replacement)
