"""Settings that the study `tune` chose for each preset in each condition, for the studies that report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from faceid_core.errors import ConfigurationError

from .compare import best_variant
from .rows import PERSON, of_condition, read_rows
from .study import Condition, Study, Variant

CHOSEN = ("learning_rate", "steps", "samples_per_step")


@dataclass(frozen=True)
class Tuned:
    """The best of a preset's trials in one condition.

    Args:
        settings: dotted keys of NightlyConfig.
        trials, people: how many it is the best of, and on how many tuning people.
    """

    settings: Mapping[str, Any]
    trials: int
    people: int

    @property
    def text(self) -> str:
        """The settings and what they rest on, as a page shows them."""
        chosen = {name: self.settings[_key(name)] for name in CHOSEN}
        values = [
            f"{name.replace('_', ' ')} {value if isinstance(value, int) else f'{value:.3g}'}"
            for name, value in chosen.items()
        ]
        return f"{', '.join(values)} (best of {self.trials} trials on {self.people} tuning people)"


ByCondition = Mapping[tuple[str, str], Tuned]  # (condition's name, preset)


def read_tuned(path: Path, tune: Study) -> ByCondition:
    """The chosen settings from the table of the study `tune`.

    Args:
        path: its CSV.
        tune: the study, whose variants the table holds.

    Raises:
        ConfigurationError: there is no such table, it holds nothing of the study, or its presets had unequal trials.
    """
    if not path.is_file():
        raise ConfigurationError(f"there is no table {path}; `faceid study tune` writes it")
    frame, found = read_rows(path), {}
    for condition in tune.conditions:
        groups = _measured(tune, of_condition(frame, condition.name))
        _require_equal_trials(path, condition, groups)
        for preset, variants in groups.items():
            own = of_condition(frame, condition.name)
            best = best_variant(own, "balance", [variant.label for variant in variants])
            if best is None:
                continue
            chosen = next(variant for variant in variants if variant.label == best)
            people = own[(own.kind == PERSON) & (own.variant == best)].subject.nunique()
            settings = {_key(name): chosen.settings[_key(name)] for name in CHOSEN}
            found[condition.name, preset] = Tuned(settings, len(variants), people)
    if not found:
        raise ConfigurationError(f"{path} holds no trial of the study tune")
    return found


def _measured(tune: Study, frame: pd.DataFrame) -> dict[str, list[Variant]]:
    labels, groups = set(frame.variant), {}
    for variant in tune.variants:
        if variant.label in labels:
            groups.setdefault(variant.group, []).append(variant)
    return groups


def _require_equal_trials(path: Path, condition: Condition, groups: Mapping[str, Sequence[Variant]]) -> None:
    counts = {preset: len(variants) for preset, variants in groups.items()}
    if len(set(counts.values())) > 1:
        numbers = ", ".join(f"{preset} {count}" for preset, count in counts.items())
        raise ConfigurationError(
            f"{path} has unequal trials of the presets, {condition.title} ({numbers}), so the preset with more would "
            "have the advantage; measure the rest with `faceid study tune --variants PRESET`"
        )


def tuned_settings(variant: Variant, condition: Condition, tuned: ByCondition) -> Mapping[str, Any]:
    """What tuning changes of a variant: its preset's choice in that condition, where the variant says nothing itself."""
    chosen = tuned.get((condition.name, variant.settings.get("personalize.preset", "")))
    return {} if chosen is None else {k: v for k, v in chosen.settings.items() if k not in variant.settings}


def _key(name: str) -> str:
    return f"personalize.method.{name}"
