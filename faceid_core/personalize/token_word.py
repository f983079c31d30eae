"""The word by which another tool's prompts call a person. Light on purpose: the command line imports it."""

from __future__ import annotations

from faceid_core.errors import ConfigurationError

TOKEN = "<v>"
# Two people's files can then be loaded side by side, and neither says who they are.
DEFAULT_TOKEN = "<{key}>"
_KEY_DIGITS = 8


def token_for(pattern: str, identity_id: str, identity_key: str) -> str:
    """The word by which another tool's prompts call a person.

    Args:
        pattern: the word itself; `{id}` in it stands for the person's id in lower case, `{key}` for the beginning of the
            opaque key, which tells people apart and says nothing of them.
        identity_id, identity_key: the person's.

    Raises:
        ConfigurationError: it is not one word in lower case.
    """
    token = pattern.replace("{id}", identity_id.lower()).replace("{key}", identity_key[:_KEY_DIGITS])
    require_token(token)
    return token


def require_token(token: str) -> None:
    """Refuse a token that another tool could not find in a prompt.

    Raises:
        ConfigurationError: it is not one word in lower case.
    """
    if not token or any(character.isspace() for character in token) or token != token.lower():
        raise ConfigurationError(
            f"the token {token!r} must be one word in lower case without spaces, such as {TOKEN}"
        )
