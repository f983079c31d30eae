"""Presets: the published method and its relatives as points of one configuration space."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .method import Method

PRESETS: Mapping[str, Method] = MappingProxyType(
    {
        # Five stage pairs of K and V vectors with the reference-prompt attention loss (the paper).
        "semantic-fidelity": Method(),
        # Gal et al. 2022: one vector, nothing that holds its attention.
        "textual-inversion": Method(stages=1, kv_split=False, attention_target="none"),
        # The paper's own ablation: its attention loss on Textual Inversion.
        "textual-inversion+attention": Method(stages=1, kv_split=False),
        # ProSpect: ten stages, K and V shared.
        "prospect": Method(stages=10, kv_split=False, attention_target="none"),
    }
)
