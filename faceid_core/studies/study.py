"""Study: a question about the method, the variants and conditions that answer it, and what is published about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from faceid_core.errors import ConfigurationError


@dataclass(frozen=True)
class Condition:
    """What the training prompt says, and so what it leaves to the tokens: all variants of a study share it.

    Args:
        name: its word in tables and on the command line; empty for the configured prompt.
        title: what pages call it.
        template: `personalize.method.template`; None leaves the configured one.
    """

    name: str
    title: str
    template: str | None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Dotted keys of NightlyConfig that it changes."""
        return {} if self.template is None else {"personalize.method.template": self.template}


AS_CONFIGURED = Condition("", "", None)


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
        conditions: each variant is measured in all of them.
        remarks: by variant, a sentence that belongs beside its row.
        people, seeds: how many by default.
        of_pairs: people are drawn two in a picture, and a row is of two people.
    """

    name: str
    question: str
    variants: tuple[Variant, ...]
    default: str
    claims: tuple[Claim, ...] = ()
    ordered: bool = False
    selects: bool = False
    conditions: tuple[Condition, ...] = (AS_CONFIGURED,)
    remarks: Mapping[str, str] = field(default_factory=dict)
    people: int = 48
    seeds: int = 1
    of_pairs: bool = False
    labels: tuple[str, ...] = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "labels", tuple(variant.label for variant in self.variants))
        assert self.default in self.labels and len(set(self.labels)) == len(self.labels)
        assert not any("," in label for label in self.labels), "--variants separates labels by commas"

    def identities(self, people: int) -> str:
        """The value of `identities` for so many people."""
        return f"miniature:{'tuning' if self.selects else 'second-held-out'}:{people}"

    def select_conditions(self, names: Iterable[str]) -> tuple[Condition, ...]:
        """The conditions of these names, in the study's order; all of them for no names.

        Raises:
            ConfigurationError: the study has no such condition.
        """
        wanted, known = set(names), [condition.name for condition in self.conditions]
        if wanted - set(known):
            offered = ", ".join(filter(None, known)) or "none: it takes the configured training prompt"
            raise ConfigurationError(
                f"study {self.name} has no condition {sorted(wanted - set(known))[0]!r}; its conditions are: {offered}"
            )
        return tuple(each for each in self.conditions if not wanted or each.name in wanted)

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
