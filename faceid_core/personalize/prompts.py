"""Prompts with a placeholder: `V*`, or `V1*`, `V2*`, ... for several people; and the placeholder token of exported files.

It imports no model library: the command line uses it.
"""

from __future__ import annotations

import re

from faceid_core.errors import ConfigurationError

PLACEHOLDER = "V*"
# As a word of its own: "V*ery" is a slip, "V*, smiling" and "V*'s" are not.
_WORD = re.compile(r"(?<![\w*])V\*(?![\w*])")
_NUMBERED = re.compile(r"V([0-9]+)\*")

# The placeholder token by which another tool's prompts call a person. The command line's default has digits of the
# person's key, so that two people's files can be loaded side by side and neither says who they are.
PLACEHOLDER_TOKEN = "<v>"
DEFAULT_TOKEN_PATTERN = "<{key}>"
_KEY_DIGITS = 8


def split_prompt(prompt: str) -> tuple[str, str]:
    """The words before and after the placeholder.

    Raises:
        ConfigurationError: the placeholder does not stand in the prompt exactly once, or touches a letter.
    """
    count = prompt.count(PLACEHOLDER)
    if count != 1:
        raise ConfigurationError(
            f"the prompt {prompt!r} has {count} times {PLACEHOLDER!r}; "
            "write it exactly once, where the person belongs"
        )
    if not _WORD.search(prompt):
        raise ConfigurationError(
            f"in the prompt {prompt!r} {PLACEHOLDER!r} touches another word; put a space between"
        )
    before, after = prompt.split(PLACEHOLDER)
    return before, after


def split_several(prompt: str, people: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The words around the placeholders `V1*` to `Vn*` of n people, which may stand in any order.

    Returns:
        The n + 1 pieces of text, and for each gap between them the person's number, from 0.

    Raises:
        ConfigurationError: a placeholder is absent, repeated, of no person, touches a letter, or is the single `V*`.
    """
    wanted = [f"V{number}*" for number in range(1, people + 1)]
    found = [match.group(0) for match in _NUMBERED.finditer(prompt)]
    if sorted(found) != sorted(wanted) or PLACEHOLDER in prompt:
        present = ", ".join(found + [PLACEHOLDER] * prompt.count(PLACEHOLDER)) or "no placeholder"
        raise ConfigurationError(
            f"the prompt {prompt!r} has {present}; "
            f"with {people} people write each of {', '.join(wanted)} exactly once, where they belong"
        )
    pieces = tuple(_NUMBERED.split(prompt)[::2])
    for before, placeholder, after in zip(pieces, found, pieces[1:], strict=False):
        if before[-1:].isalnum() or after[:1].isalnum():
            raise ConfigurationError(
                f"in the prompt {prompt!r} {placeholder!r} touches another word; put a space between"
            )
    return pieces, tuple(wanted.index(each) for each in found)


def fill(prompt: str, text: str) -> str:
    """The prompt with the placeholder replaced by a plain text such as a class word or a name."""
    before, after = split_prompt(prompt)
    return before + text + after


def training_prompt(template: str) -> str:
    """The template with the placeholder in its one pair of braces."""
    return template.replace("{}", PLACEHOLDER)


def placeholder_token(pattern: str, identity_id: str, identity_key: str) -> str:
    """The placeholder token of a person in another tool's prompts.

    Args:
        pattern: the token itself; `{id}` in it stands for the identity's id in lower case, `{key}` for the first digits
            of the opaque key, which tells people apart and does not name them.
        identity_id, identity_key: the person's.

    Raises:
        ConfigurationError: the token is not one word in lower case.
    """
    token = pattern.replace("{id}", identity_id.lower()).replace("{key}", identity_key[:_KEY_DIGITS])
    require_placeholder_token(token)
    return token


def require_placeholder_token(token: str) -> None:
    """Refuse a token that another tool could not find in a prompt.

    Raises:
        ConfigurationError: the token is not one word in lower case.
    """
    if not token or any(character.isspace() for character in token) or token != token.lower():
        raise ConfigurationError(
            f"the token {token!r} must be one word in lower case without spaces, such as {PLACEHOLDER_TOKEN}"
        )
