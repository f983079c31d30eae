"""Untrusted YAML, within bounds: a small text cannot become a large value, and no key is given twice."""

from __future__ import annotations

from typing import Any

import yaml

from .errors import ConfigurationError
from .file_kinds import other_than_text

MOST_BYTES = 256 * 1024
# Number of values with aliases expanded, where a long text counts as several; and how deep they are nested.
MOST_VALUES = 200_000
MOST_DEPTH = 20
_LETTERS_PER_VALUE = 64
_MOST_DIGITS = 100
_MERGE = "tag:yaml.org,2002:merge"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Refused(Exception):
    """A YAML text is refused; the message continues a sentence that begins with its source."""


class _Loader(yaml.SafeLoader):
    """A loader with bounded depth: the work of PyYAML for a token grows with the number of open levels."""

    def fetch_flow_collection_start(self, TokenClass: type) -> None:
        self._refuse_depth(self.flow_level)
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        self._refuse_depth(len(self.indents))
        return super().add_indent(column)

    def _refuse_depth(self, depth: int) -> None:
        if depth >= MOST_DEPTH:
            raise _Refused(f"is nested too deeply (line {self.line + 1}): at most {MOST_DEPTH} levels")


def read_yaml(text: str | bytes, *, source: str, what: str, most_bytes: int = MOST_BYTES) -> Any:
    """The value of a YAML text; None for an empty one.

    Args:
        text: UTF-8 where it is bytes.
        source: its name, for messages.
        what: what it should be, as in "a configuration".
        most_bytes: a longer text is refused.

    Raises:
        ConfigurationError: it is too long, not YAML, gives a key twice, or its aliases expand to too much.
    """
    if len(text) > most_bytes:
        raise ConfigurationError(f"{source} is larger than {most_bytes // 1024} KiB, too large to be {what}")
    if isinstance(text, bytes):
        kind = other_than_text(text)
        if kind:
            raise ConfigurationError(f"{source} is {kind}, not {what}; name a YAML file")
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigurationError(
                f"{source} is not UTF-8 text ({error.reason}); save it as UTF-8"
            ) from None
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _measure(root, {})
        return loader.construct_document(root)
    except _Refused as error:
        raise ConfigurationError(f"{source} {error}") from None
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML passes on what Python raises for impossible dates, numbers, tags and keys.
        raise ConfigurationError(f"{source} is not valid YAML: {_short(error)}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values a node expands to and how deep they lie; each node is measured once, however often it is used.

    Raises:
        _Refused: they are too many or too deep, the node holds itself, or a mapping names a key twice.
    """
    number = id(node)
    if number in known:
        if known[number][0] < 0:
            raise _Refused(f"holds a value that refers to itself ({_line(node)})")
        return known[number]
    known[number] = (-1, 0)
    if isinstance(node, yaml.MappingNode):
        _refuse_keys_twice(node)
        below = [part for pair in node.value for part in pair]
    else:
        below = node.value if isinstance(node, yaml.SequenceNode) else []
    if node.tag in _NUMBERS and len(node.value) > _MOST_DIGITS:
        raise _Refused(f"holds a number of {len(node.value)} characters ({_line(node)}); put text in quotes")
    count = 1 + (len(node.value) // _LETTERS_PER_VALUE if isinstance(node, yaml.ScalarNode) else 0)
    depth = 0
    for part in below:
        more, deeper = _measure(part, known)
        count, depth = count + more, max(depth, deeper + 1)
    if count > MOST_VALUES:
        raise _Refused(
            f"stands for more than {MOST_VALUES} values ({_line(node)}); write fewer, or fewer *aliases"
        )
    if depth > MOST_DEPTH:
        raise _Refused(f"is nested too deeply ({_line(node)}): at most {MOST_DEPTH} levels")
    known[number] = (count, depth)
    return known[number]


def _refuse_keys_twice(node: yaml.MappingNode) -> None:
    seen: dict[tuple[str, str], yaml.Node] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
            before = seen.setdefault((key.tag, key.value), key)
            if before is not key:
                raise _Refused(f"names {key.value[:60]!r} twice ({_line(before)} and {_line(key)}); keep one")


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def _short(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= 500 else text[:497] + "..."
