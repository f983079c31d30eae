"""IdentityUse: how much of a learned person a picture uses, between the prompt's concepts and the person's likeness.

Every stage, and keys and values of each, can be used singly without learning anything again. It imports no model
library: the configuration uses it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from faceid_core.errors import ConfigurationError

KV_CHOICES = ("kv", "k", "v")


@dataclass(frozen=True)
class IdentityUse:
    """Where and how strongly the person's vectors are used; the class word stands in elsewhere.

    Args:
        stages: numbers from 1 (least noise, the paper's i) of the stages that use the person; empty means all.
        kv: "kv", or only "k" (where to sample) or only "v" (what is painted there).
        strength: 0..1 in those stages, keys and values, from the class word's contexts to the person's.
        adjust_length, adjust_direction: 0..1 in those stages, keys and values, from the learned vectors' length and
            direction to those of the class word's; before the text encoder, while the strength is after it.

    Raises:
        ConfigurationError: a value cannot be used; the text says which.

    Source: keys decide where and values what, paper abstract; the strength is ours; the adjustments are those of
    Bui et al., arXiv 2506.22685 (0.5 and 0.2 in its public code).
    """

    stages: tuple[int, ...] = ()
    kv: str = "kv"
    strength: float = 1.0
    adjust_length: float = 0.0
    adjust_direction: float = 0.0

    def __post_init__(self):
        numbers = tuple(self.stages)
        if any(number < 1 for number in numbers) or len(set(numbers)) < len(numbers):
            raise ConfigurationError(
                f"stages {list(numbers)} must be different numbers from 1 (the least noise); empty means all"
            )
        if self.kv not in KV_CHOICES:
            raise ConfigurationError(f"kv {self.kv!r} is unknown; use one of {', '.join(KV_CHOICES)}")
        if not 0 <= self.strength <= 1:
            raise ConfigurationError(
                f"strength {self.strength} is not between 0 (the class word) and 1 (the person)"
            )
        for name in ("adjust_length", "adjust_direction"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise ConfigurationError(f"{name} {share} is not between 0 (as learned) and 1 (the class word's)")
        object.__setattr__(self, "stages", tuple(sorted(numbers)))

    @property
    def is_whole(self) -> bool:
        """Whether every stage, key and value uses the person fully and as learned, which is the default."""
        return self == WHOLE

    @property
    def adjusts(self) -> bool:
        """Whether vectors are brought nearer to the class word's."""
        return bool(self.adjust_length or self.adjust_direction)

    def within(self, stages: int) -> IdentityUse:
        """The same use for tokens with that many stages, in its one normal form: all stages are an empty tuple.

        Raises:
            ConfigurationError: a stage is named that these tokens do not have.
        """
        if self.stages and self.stages[-1] > stages:
            raise ConfigurationError(
                f"stage {self.stages[-1]} is to be used, but the tokens have {stages} stages; name stages 1 to {stages}"
            )
        named = () if len(self.stages) == stages else self.stages
        return replace(self, stages=named, strength=float(self.strength))

    def uses(self, stages: int) -> tuple[tuple[bool, bool], ...]:
        """For each stage whether keys and whether values use the person's vectors.

        Raises:
            ConfigurationError: as `within`.
        """
        named = self.within(stages).stages or range(1, stages + 1)
        return tuple(
            (stage in named and "k" in self.kv, stage in named and "v" in self.kv)
            for stage in range(1, stages + 1)
        )

    def fields(self) -> dict[str, Any]:
        """As plain values for digests and stage parameters; empty for the default, whose digests do not depend on it."""
        if self.is_whole:
            return {}
        fields = {"stages": list(self.stages), "kv": self.kv, "strength": float(self.strength)}
        if self.adjusts:
            fields |= {
                "adjust_length": float(self.adjust_length),
                "adjust_direction": float(self.adjust_direction),
            }
        return fields


WHOLE = IdentityUse()


def parse_stages(text: str) -> tuple[int, ...]:
    """Stage numbers of a text such as "1,2,3" or "3-5".

    Raises:
        ConfigurationError: it is not such a list.
    """
    found: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = part.partition("-")
        if not first.strip().isdecimal() or (dash and not last.strip().isdecimal()):
            raise ConfigurationError(f"stages {text!r} are not numbers; write for instance 1,2,3 or 3-5")
        low, high = int(first), int(last if dash else first)
        if high < low:
            raise ConfigurationError(f"stages {part!r} run backwards; write {high}-{low}")
        found += range(low, high + 1)
    return tuple(found)
