"""Why two stage keys differ: the leaves in which two key preimages disagree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = "absent"
_DIGEST_SHOWN = 12
_SHOWN = 60


@dataclass(frozen=True)
class Leaf:
    """One value that changed: where it stands in the preimage, and what it was and is; `ABSENT` where there is none."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.path}: {shown(self.before)} -> {shown(self.after)}"


def differences(before: Mapping, after: Mapping) -> list[Leaf]:
    """The leaves in which two preimages differ, in the order of their paths.

    Lists of unequal length differ as a whole where they hold plain values, and entry by entry else.
    """
    try:
        return sorted(_differing("", before, after), key=lambda leaf: leaf.path)
    except RecursionError:  # no stage makes such parameters
        return [Leaf("parameters", "nested too deeply to compare", "others")]


def shown(value: Any) -> str:
    """A leaf's value in a line: digests and long texts shortened."""
    if value is _MISSING:
        return ABSENT
    text = value if isinstance(value, str) else repr(value)
    if isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value):
        return value[:_DIGEST_SHOWN]
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


class _Missing:
    def __repr__(self) -> str:
        return ABSENT


_MISSING = _Missing()


def _differing(path: str, before: Any, after: Any) -> Iterator[Leaf]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in before.keys() | after.keys():
            below = f"{path}.{name}" if path else name
            yield from _differing(below, before.get(name, _MISSING), after.get(name, _MISSING))
    elif _nested(before) and _nested(after):
        for index in range(max(len(before), len(after))):
            one, other = (each[index] if index < len(each) else _MISSING for each in (before, after))
            yield from _differing(f"{path}[{index}]", one, other)
    elif type(before) is not type(after) or before != after:
        yield Leaf(path, before, after)


def _nested(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and any(isinstance(item, list | tuple | Mapping) for item in value)
    )
