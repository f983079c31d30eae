"""Small secrets: in files that are made once and that only their owner can read; out of addresses that are shown."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from faceid_core.errors import ConfigurationError


def config_folder() -> Path:
    """Where this user's secrets lie: `faceid` in XDG_CONFIG_HOME or ~/.config."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "faceid"


def make_once(path: Path, text: str) -> None:
    """Write the file if it does not exist; of several processes at once, one writes it and all find it whole.

    Raises:
        ConfigurationError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        finally:
            os.unlink(temporary)
    except FileExistsError:
        return
    except OSError as error:
        raise ConfigurationError(f"cannot make {path}: {error.strerror}") from error


def read_private(path: Path) -> str:
    """The file's text, without blanks around it.

    Raises:
        ConfigurationError: it cannot be read, or others can read it.
    """
    try:
        with open(path, encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error
    if mode & 0o077:
        raise ConfigurationError(
            f"{path} can be read by others (mode {mode & 0o777:o}); run: chmod 600 {path}"
        )
    return text


def without_credentials(url: str) -> str:
    """An address without the user and password that somebody wrote into it; whatever is no address stays as it is."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
