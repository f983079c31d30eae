"""When two pieces of work are the same: canonical JSON, and the key of a stage's call."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

FORMAT = "faceid-stage/2"
_STAGE = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def sha256_hex(data: bytes) -> str:
    """SHA-256 as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def is_digest(text) -> bool:
    """Whether this is a SHA-256 as `sha256_hex` writes it."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def is_stage_name(text) -> bool:
    """Whether this can name a stage: lower-case letters, digits, '-' and '_'."""
    return isinstance(text, str) and _STAGE.fullmatch(text) is not None


def canonical_json(value) -> bytes:
    """The one spelling of a plain value, the same on every machine and Python version.

    Keys are sorted by code point, tuples are lists, floats are written as their shortest repr. 1, 1.0 and
    True are different, and so are 0.0 and -0.0: a needless miss costs time, a wrong hit costs a wrong result.

    Args:
        value: None, bool, int, float, str, and lists, tuples and string-keyed mappings of them.

    Returns:
        UTF-8 without white space.

    Raises:
        TypeError: for any other type (arrays, paths, bytes, sets: convert them where their meaning is known).
        ValueError: for NaN and infinities, and for text that is not Unicode.
    """
    return spelled(plain(value))


def spelled(value) -> bytes:
    """`canonical_json` of a value that is plain already, as `plain` and `json.loads` give it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return text.encode()


def plain(value, where: str = "value"):
    """The value as new dicts, lists and scalars, so that a later change of the argument cannot change a key.

    Raises:
        TypeError, ValueError: as `canonical_json` does; the text says where in the value.
    """
    try:
        return _copy(value)
    except _Unusual:  # slower, and knows where it is
        return _converted(value, where)


class _Unusual(Exception):
    pass


def _copy(value):
    """A deep copy of a value of the very types that JSON has."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is list or kind is tuple:
        return [_copy(item) for item in value]
    if kind is dict:
        copied = {}
        for name, item in value.items():
            if type(name) is not str:
                raise _Unusual
            copied[name] = _copy(item)
        return copied
    if kind is float and math.isfinite(value):
        return value
    raise _Unusual


def _converted(value, where: str):
    if value is None or isinstance(value, bool | str):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}; a key needs finite numbers")
        return float(value)
    if isinstance(value, Mapping):
        odd = [key for key in value if not isinstance(key, str)]
        if odd:
            raise TypeError(
                f"{where} has the key {odd[0]!r} of type {type(odd[0]).__name__}; keys are strings"
            )
        return {str(key): _converted(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_converted(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}, which has no canonical spelling")


@functools.lru_cache(maxsize=1024)
def _shared(text: str) -> dict:
    """Parameters from JSON, in its order, one object for all calls that have them: thousands of people share prompts."""
    return json.loads(text)


@dataclass(frozen=True)
class StageCall:
    """All that a stage's result depends on. Neither an identity's key nor the secret ever belongs in here.

    Attributes:
        stage: the stage's name.
        version: raised when the stage's code begins to give other results.
        parameters: those settings that matter to the result, as plain values.
        precision: such as "float32"; empty where no model computes.
        inputs: name -> SHA-256 of what the stage reads.
        weights: model -> digest of its files, from `models.lock`.

    Raises:
        TypeError, ValueError: from the constructor, if a part cannot stand in a key.
    """

    stage: str
    version: int
    parameters: Mapping = field(default_factory=dict)
    precision: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if not is_stage_name(self.stage):
            raise ValueError(f"stage {self.stage!r} is not a name of lower-case letters, digits, '-' and '_'")
        if isinstance(self.version, bool) or not isinstance(self.version, int) or self.version < 1:
            raise ValueError(f"stage {self.stage} has version {self.version!r}; versions are integers from 1")
        for part in ("parameters", "inputs", "weights"):
            object.__setattr__(self, part, plain(getattr(self, part), f"{self.stage} {part}"))
        object.__setattr__(self, "parameters", _shared(json.dumps(self.parameters)))
        for part in ("inputs", "weights"):
            for name, digest in getattr(self, part).items():
                if not is_digest(digest):
                    raise ValueError(f"stage {self.stage} {part[:-1]} {name!r} is {digest!r}, not a SHA-256")

    def preimage(self) -> dict:
        """What the key is the hash of; `faceid explain` compares two of these."""
        return {
            "format": FORMAT,
            "stage": self.stage,
            "version": self.version,
            "parameters": self.parameters,
            "precision": self.precision,
            "inputs": self.inputs,
            "weights": self.weights,
        }

    @functools.cached_property
    def spelling(self) -> bytes:
        """The canonical JSON of the preimage."""
        return spelled(self.preimage())

    @functools.cached_property
    def key(self) -> str:
        """SHA-256 of the canonical preimage, 64 hex digits."""
        return sha256_hex(self.spelling)

    def __hash__(self) -> int:
        return hash(self.key)
