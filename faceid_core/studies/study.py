"""Study: a question about the method, the variants that answer it, and what is published about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from faceid_core.errors import ConfigurationError


@dataclass(frozen=True)
class Variant:
    """One point of a sweep.

    Args:
        label: its name in tables and files.
        settings: dotted keys of NightlyConfig that it changes.
        group: variants that are compared among themselves; only tuning has several groups.
    """

    label: str
    settings: Mapping[str, Any]
    group: str = ""


@dataclass(frozen=True)
class Claim:
    """A published statement, as comparisons that confidence intervals can decide.

    Args:
        statement: what the paper says, in one sentence.
        measure: column of the study's table.
        better: variant that is to be better.
        worse: variants that it is to be better than.
    """

    statement: str
    measure: str
    better: str
    worse: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """A question with the variants that answer it.

    Args:
        name: its word on the command line.
        question: one sentence.
        variants: in the order of tables and figures.
        default: label of the variant that the others are compared with.
        claims: what the paper says; empty where it says nothing that can be compared.
        ordered: whether the variants are values of one quantity, in rising order.
        selects: it chooses settings: tuning people and selection scorers, never those that report.
        people, seeds: how many by default.
    """

    name: str
    question: str
    variants: tuple[Variant, ...]
    default: str
    claims: tuple[Claim, ...] = ()
    ordered: bool = False
    selects: bool = False
    people: int = 16
    seeds: int = 2
    labels: tuple[str, ...] = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "labels", tuple(variant.label for variant in self.variants))
        assert self.default in self.labels and len(set(self.labels)) == len(self.labels)
        assert not any("," in label for label in self.labels), "--variants separates labels by commas"

    def identities(self, people: int) -> str:
        """The value of `identities` for so many people."""
        return f"miniature:{'tuning' if self.selects else 'held-out'}:{people}"

    def select_variants(self, names: Iterable[str]) -> tuple[Variant, ...]:
        """The variants of these labels or groups, in the study's order; all of them for no names.

        Raises:
            ConfigurationError: a name is neither.
        """
        wanted = set(names)
        known = set(self.labels) | {variant.group for variant in self.variants if variant.group}
        if wanted - known:
            raise ConfigurationError(
                f"study {self.name} has no variant {sorted(wanted - known)[0]!r}; "
                f"its variants are: {', '.join(sorted(known, key=str))}"
            )
        return tuple(v for v in self.variants if not wanted or v.label in wanted or v.group in wanted)
