"""The prompt grid: which prompts are drawn, and what a picture of each must show."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from faceid_core.errors import ConfigurationError
from faceid_core.store.keys import canonical_json, sha256_hex

PLACEHOLDER = "V*"
CATEGORIES = ("plain", "scene", "attribute", "action", "clothing", "pair", "mixed", "style")
CONCEPT_KINDS = ("scene", "attribute", "action", "clothing")
STANDARD_GRIDS = ("miniature", "laboratory", "photographs")

# The placeholder as a word of its own: "V*ery" is a slip, "V*, smiling" and "V*'s" are not.
_PLACEHOLDER_WORD = re.compile(r"(?<![\w*])V\*(?![\w*])")
# Ids stand in tables, in element ids of the report and in seeds.
_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_LONGEST_ID = 64


@dataclass(frozen=True)
class Prompt:
    """One prompt of the grid.

    Args:
        id: lower-case words joined by hyphens, unique in its grid.
        text: the prompt, with `V*` exactly once.
        category: one of `CATEGORIES`.
        expected: concept kind (one of `CONCEPT_KINDS`) to the names that the picture must show, all of them.
    """

    id: str
    text: str
    category: str
    expected: Mapping[str, tuple[str, ...]]

    def for_subject(self, subject: str) -> str:
        """The prompt with `V*` replaced, for example by the class word."""
        return _PLACEHOLDER_WORD.sub(lambda _: subject, self.text)


@dataclass(frozen=True)
class PromptGrid:
    """All prompts of one evaluation; `digest` names its content, whatever the file looked like."""

    name: str
    prompts: tuple[Prompt, ...]
    digest: str


class _PromptEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str
    text: str
    category: Literal["plain", "scene", "attribute", "action", "clothing", "pair", "mixed", "style"]
    expected: dict[Literal["scene", "attribute", "action", "clothing"], str | list[str]] = Field(
        default_factory=dict
    )


class _GridFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    prompts: list[_PromptEntry] = Field(min_length=1)


def load_grid(source: str | Path | None = None) -> PromptGrid:
    """Read a grid and check all of it.

    Args:
        source: a path to a YAML file, the name of a standard grid, or None for the miniature's.

    Raises:
        ConfigurationError: with every problem of the file, one per line.
    """
    source = "miniature" if source is None else source
    if str(source) in STANDARD_GRIDS:
        file = resources.files(__package__).joinpath("grids", f"{source}.yaml")
        return parse_grid(file.read_text(encoding="utf-8"), source=f"grid {source!r}")
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(STANDARD_GRIDS)
        raise ConfigurationError(
            f"the prompt grid {str(source)!r} cannot be read ({error}); give a YAML file or one of: {known}"
        ) from error
    return parse_grid(text, source=str(source))


def parse_grid(text: str, *, source: str) -> PromptGrid:
    """A grid from YAML text; `source` names it in errors.

    Raises:
        ConfigurationError: with every problem, one per line.
    """
    try:
        loaded = yaml.safe_load(text)
    except RecursionError:
        raise ConfigurationError(f"{source} is nested too deeply to be a prompt grid") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML lets through what Python says of dates and numbers that do not exist.
        raise ConfigurationError(f"{source} is not YAML: {error}") from error
    try:
        entries = _GridFile.model_validate(loaded)
    except ValidationError as error:
        raise _refusal(source, [_said(loaded, problem) for problem in error.errors()]) from error
    problems = _problems(entries.prompts)
    if problems:
        raise _refusal(source, problems)
    prompts = tuple(
        Prompt(entry.id, entry.text, entry.category, _expected(entry)) for entry in entries.prompts
    )
    content = [[p.id, p.text, p.category, {k: list(v) for k, v in p.expected.items()}] for p in prompts]
    return PromptGrid(entries.name, prompts, sha256_hex(canonical_json(content)))


def _expected(entry: _PromptEntry) -> dict[str, tuple[str, ...]]:
    return {
        kind: (names,) if isinstance(names, str) else tuple(names) for kind, names in entry.expected.items()
    }


def _problems(entries: list[_PromptEntry]) -> list[str]:
    found = []
    for entry in entries:
        if not _ID.fullmatch(entry.id) or len(entry.id) > _LONGEST_ID:
            found.append(
                f"prompt {entry.id!r}: the id must be lower-case words joined by hyphens, "
                f"at most {_LONGEST_ID} characters"
            )
        if len(_PLACEHOLDER_WORD.findall(entry.text)) != 1 or entry.text.count(PLACEHOLDER) != 1:
            found.append(
                f"prompt {entry.id!r}: {entry.text!r} must hold {PLACEHOLDER} exactly once, as a word"
            )
        for kind, names in _expected(entry).items():
            if not names or not all(name.strip() for name in names):
                found.append(f"prompt {entry.id!r}: expected {kind} names nothing; leave it out instead")
    found += [
        f"prompt {name!r} stands there {count} times; ids are unique"
        for name, count in Counter(entry.id for entry in entries).items()
        if count > 1
    ]
    return found


def _said(loaded: object, problem: Mapping) -> str:
    """One pydantic problem as a sentence that names the prompt rather than its index."""
    where = list(problem["loc"])
    if where[:1] == ["prompts"] and len(where) > 1:
        entry = loaded["prompts"][where[1]]  # type: ignore[index]
        name = entry.get("id") if isinstance(entry, dict) else None
        where = [f"prompt {name!r}" if name else f"prompt number {where[1] + 1}", *where[2:]]
    message = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
    return f"{': '.join(str(part) for part in where) or 'the file'}: {message}"


def _refusal(source: str, problems: list[str]) -> ConfigurationError:
    listed = "\n".join(f"  - {problem}" for problem in problems)
    return ConfigurationError(f"{source} has {len(problems)} problem(s):\n{listed}")
