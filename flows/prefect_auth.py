"""Access to a Prefect server that we start: one authentication string per user, and only the server's own pages.

This module must not import Prefect: it sets the environment that Prefect reads when it is imported.
"""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path

from faceid_core.errors import ConfigurationError
from faceid_core.private import config_folder, make_once, read_private
from flows.local_network import exempt_loopback_from_proxy

# Reserved by RFC 2606, so no page comes from there. Empty or "null" would admit files and sandboxed frames.
NO_ORIGIN = "https://none.invalid"
_SERVERS = ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING")
_ORIGINS = ("PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS", "PREFECT_SERVER_CORS_ALLOWED_ORIGINS")


@dataclass(frozen=True)
class AuthString:
    """The string `user:password` that our server asks for; its representation shows the source only."""

    value: str = field(repr=False)
    source: str


def auth_file() -> Path:
    """The file of the string, beside the identity secret and never in a store."""
    return config_folder() / "prefect-auth"


def load_auth_string() -> AuthString:
    """The string in the environment, or else in this user's file, which the first call makes.

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
        raise ConfigurationError(f"{path} holds no user:password; remove it, and a new one is made")
    return AuthString(text, str(path))


def secure_own_server(origin: str = NO_ORIGIN) -> AuthString:
    """Set the environment so that the server that this process starts requires the string, and its clients send it.

    Server, runs and Ray's processes are children of this process and inherit the environment.

    Args:
        origin: The origin of the server's pages; no other page may read its answers.

    Raises:
        ConfigurationError: as `load_auth_string`.
    """
    string = load_auth_string()
    os.environ.update(dict.fromkeys(_SERVERS, string.value))
    if not any(name in os.environ for name in _ORIGINS):
        os.environ[_ORIGINS[0]] = origin
    exempt_loopback_from_proxy(os.environ)  # a proxy would be sent the string
    reload_prefect_settings()
    return string


def reload_prefect_settings() -> None:
    """Make Prefect read its settings again, if it was imported before the environment changed."""
    if "prefect.context" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
