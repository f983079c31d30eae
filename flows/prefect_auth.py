"""The door of a Prefect server that we start: one authentication string per user, and no foreign web page."""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path

from faceid_core.errors import ConfigurationError
from faceid_core.private import config_folder, make_once, read_private
from flows.loopback import reach_loopback_directly

# Reserved by RFC 2606, so no page comes from there. Empty or "null" would let some in: files and sandboxed frames.
NO_ORIGIN = "https://none.invalid"
_SERVERS = ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING")
_ORIGINS = ("PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS", "PREFECT_SERVER_CORS_ALLOWED_ORIGINS")


@dataclass(frozen=True)
class AuthString:
    """What a server of ours asks for, `user:password`; printing it shows where it came from, never what it is."""

    value: str = field(repr=False)
    source: str


def auth_file() -> Path:
    """Where the string lies: beside the identity secret, never in a store."""
    return config_folder() / "prefect-auth"


def load_auth_string() -> AuthString:
    """The string of the environment, or else that of this user's file, which is made at the first call.

    Raises:
        ConfigurationError: the file cannot be made or read, others can read it, or it holds no such string.
    """
    for name in _SERVERS:
        if os.environ.get(name):
            return AuthString(os.environ[name], name)
    path = auth_file()
    if not path.exists():
        make_once(path, f"faceid:{secrets.token_hex(16)}\n")
    text = read_private(path)
    user, colon, password = text.partition(":")
    if not (user and colon and password) or any(character.isspace() for character in text):
        raise ConfigurationError(f"{path} holds no user:password; remove it, and another one is made")
    return AuthString(text, str(path))


def close_own_server(origin: str = NO_ORIGIN) -> AuthString:
    """Have the server that this process is about to start ask for the string, and all clients here send it.

    Server, runs and Ray's processes are children of this process: its environment is how they learn the string.

    Args:
        origin: The address of the server's own pages; no other page may read its answers.

    Raises:
        ConfigurationError: see `load_auth_string`.
    """
    string = load_auth_string()
    os.environ.update(dict.fromkeys(_SERVERS, string.value))
    if not any(name in os.environ for name in _ORIGINS):
        os.environ[_ORIGINS[0]] = origin
    reach_loopback_directly(os.environ)  # a proxy would be sent the string
    refresh_prefect()
    return string


def refresh_prefect() -> None:
    """Let Prefect read its settings from the environment again, if it was imported before the environment changed."""
    if "prefect.context" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
