"""The prompt grid: the prompts to draw, and the concepts that each picture must show."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from faceid_core.errors import MOST_LISTED, ConfigurationError, listed
from faceid_core.personalize.prompts import PLACEHOLDER, fill, split_prompt
from faceid_core.store.keys import canonical_json, sha256_hex
from faceid_core.yaml_text import read_yaml

Category = Literal["plain", "scene", "attribute", "action", "clothing", "pair", "mixed", "style"]
ConceptKind = Literal["scene", "attribute", "action", "clothing"]
STANDARD_GRIDS = ("miniature", "laboratory", "laboratory-half", "photographs")

# Ids stand in tables, in element ids of the report and in seeds.
_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_MAX_ID_CHARACTERS = 64
# Some ten thousand prompts.
_MAX_BYTES = 1024 * 1024
_SHAPE = (
    "a grid is a mapping of name and prompts, each prompt a mapping of id, text (with V* once) and category, as in\n"
    "    name: mine\n    prompts:\n      - {id: beach, text: a photo of V* on the beach, category: scene}"
)


@dataclass(frozen=True)
class Prompt:
    """One prompt of the grid.

    Args:
        id: lower-case words joined by hyphens, unique in its grid.
        text: the prompt, with `V*` exactly once.
        category: a `Category`.
        expected: `ConceptKind` -> the names that the picture must show, all of them.
    """

    id: str
    text: str
    category: str
    expected: Mapping[str, tuple[str, ...]]

    def for_subject(self, subject: str) -> str:
        """The prompt with `V*` replaced, for example by the class word."""
        return fill(self.text, subject)


@dataclass(frozen=True)
class PromptGrid:
    """All prompts of one evaluation; `digest` depends on their content, not on the file's layout."""

    name: str
    prompts: tuple[Prompt, ...]
    digest: str


class _PromptEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str
    text: str
    category: Category
    expected: dict[ConceptKind, str | list[str]] = Field(default_factory=dict)


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
        file = resources.files("faceid_core.evaluate").joinpath("grids", f"{source}.yaml")
        return parse_grid(file.read_text(encoding="utf-8"), source=f"grid {source!r}")
    path = Path(source)
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        known = ", ".join(STANDARD_GRIDS)
        raise ConfigurationError(
            f"the prompt grid {str(source)!r} cannot be read ({error}); give a YAML file or one of: {known}"
        ) from error
    return parse_grid(text, source=str(source))


def parse_grid(text: str | bytes, *, source: str) -> PromptGrid:
    """Parse a grid from YAML text; `source` names it in errors.

    Raises:
        ConfigurationError: with every problem, one per line.
    """
    loaded = read_yaml(text, source=source, what="a prompt grid", most_bytes=_MAX_BYTES)
    if not isinstance(loaded, dict) or not isinstance(loaded.get("prompts"), list):
        found = _found(loaded)
        raise ConfigurationError(f"{source} holds {found}; {_SHAPE}")
    try:
        entries = _GridFile.model_validate(loaded)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        raise _refusal(
            source, [_sentence(loaded["prompts"], each) for each in found[:MOST_LISTED]], len(found)
        ) from None
    problems = _problems(entries.prompts)
    if problems:
        raise _refusal(source, problems, len(problems))
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
        if not _ID.fullmatch(entry.id) or len(entry.id) > _MAX_ID_CHARACTERS:
            found.append(
                f"prompt {entry.id!r}: the id must be lower-case words joined by hyphens, "
                f"at most {_MAX_ID_CHARACTERS} characters"
            )
        try:
            split_prompt(entry.text)
        except ConfigurationError:
            found.append(
                f"prompt {entry.id!r}: {entry.text!r} must hold {PLACEHOLDER} exactly once, as a word"
            )
        for kind, names in _expected(entry).items():
            if not names or not all(name.strip() for name in names):
                found.append(f"prompt {entry.id!r}: expected {kind} names nothing; leave it out instead")
    found += [
        f"prompt {name!r} appears {count} times; ids are unique"
        for name, count in Counter(entry.id for entry in entries).items()
        if count > 1
    ]
    texts: dict[str, list[str]] = {}
    for entry in entries:
        if PLACEHOLDER in entry.text:  # others are told above
            texts.setdefault(entry.text, []).append(entry.id)
    found += [
        f"prompts {' and '.join(map(repr, ids))} have the same text, and so the same images; leave one out"
        for ids in texts.values()
        if len(set(ids)) > 1
    ]
    return found


def _sentence(prompts: list, problem: Mapping) -> str:
    """One pydantic problem as a sentence that names the prompt instead of its index."""
    where = list(problem["loc"])
    if where[:1] == ["prompts"] and len(where) > 1:
        entry = prompts[where[1]]
        name = entry.get("id") if isinstance(entry, dict) else None
        where = [f"prompt {name!r}" if name else f"prompt number {where[1] + 1}", *where[2:]]
    message = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
    return f"{': '.join(str(part)[:100] for part in where) or 'the file'}: {message}"


def _found(loaded: object) -> str:
    """Describes the content of a file that is not a grid."""
    if loaded is None:
        return "nothing"
    if isinstance(loaded, list):
        return f"a list of {len(loaded)}"
    if isinstance(loaded, dict):
        keys = ", ".join(str(key)[:60] for key in list(loaded)[:5]) or "nothing"
        return "prompts that are no list" if "prompts" in loaded else f"a mapping of {keys}, and no prompts"
    return f"one value ({str(loaded)[:60]!r})" if isinstance(loaded, str) else "one value"


def _refusal(source: str, problems: list[str], count: int) -> ConfigurationError:
    return ConfigurationError(f"{source} has {count} problem(s):\n{listed(problems, count=count)}")
