"""Prompts with a placeholder: where `V*` stands and what replaces it."""

from __future__ import annotations

from faceid_core.errors import ConfigurationError

PLACEHOLDER = "V*"


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
    before, after = prompt.split(PLACEHOLDER)
    if before[-1:].isalnum() or after[:1].isalnum():
        raise ConfigurationError(
            f"in the prompt {prompt!r} {PLACEHOLDER!r} touches another word; put a space between"
        )
    return before, after


def fill(prompt: str, text: str) -> str:
    """The prompt with the placeholder replaced by a plain text such as a class word or a name."""
    before, after = split_prompt(prompt)
    return before + text + after


def training_prompt(template: str) -> str:
    """The template with the placeholder in its one pair of braces."""
    return template.replace("{}", PLACEHOLDER)
