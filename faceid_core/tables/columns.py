"""What version 2 of the tables calls the columns of version 1: the glossary's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED: Mapping[str, str] = {
    "personalise_key": "personalize_key",
    "identity_fraction": "normalized_identity",
    "concepts_obeyed": "concept_accuracy",
    "concepts_obeyed_low": "concept_accuracy_low",
    "concepts_obeyed_high": "concept_accuracy_high",
    "single_concepts_obeyed": "single_concept_accuracy",
    "scene_obeyed": "scene_accuracy",
    "attribute_obeyed": "attribute_accuracy",
    "action_obeyed": "action_accuracy",
    "clothing_obeyed": "clothing_accuracy",
    "pair_obeyed": "pair_accuracy",
    "mixed_obeyed": "mixed_accuracy",
    "guidance": "guidance_scale",
}


def renamed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the names of version 2 in place of those of version 1."""
    return {RENAMED.get(name, name): value for name, value in row.items()}
