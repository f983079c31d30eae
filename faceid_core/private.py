"""What only its owner may read: files with faces, tokens, ids or secrets; and addresses without their credentials."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from faceid_core.errors import ConfigurationError

FOLDER_MODE = 0o700
FILE_MODE = 0o600


def config_folder() -> Path:
    """Where this user's secrets lie: `faceid` in XDG_CONFIG_HOME or ~/.config."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "faceid"


def make_once(path: Path, text: str, *, what: str = "") -> bool:
    """Write the file if it does not exist; of several processes at once, one writes it and all find it whole.

    Args:
        path: its folder is made too.
        text: what it will hold.
        what: it is, for messages.

    Returns:
        Whether this call made it.

    Raises:
        ConfigurationError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            # A link appears whole or not at all: a process that comes at the same moment reads the winner's text.
            os.link(temporary, path)
        finally:
            os.unlink(temporary)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        raise ConfigurationError(f"cannot make {what}{path}: {error.strerror}") from error


def read_private(path: Path, *, what: str = "") -> str:
    """The file's text, without blanks around it.

    Args:
        path: its place.
        what: it is, for messages.

    Raises:
        ConfigurationError: it cannot be read, or others can read it.
    """
    try:
        with open(path, encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {what}{path}: {error}") from error
    if mode & 0o077:
        raise ConfigurationError(
            f"{what}{path} can be read by others (mode {mode & 0o777:o}); run: chmod 600 {path}"
        )
    return text


def write_private(path: str | Path, data: bytes) -> None:
    """Write a file that only its owner can read; one that is there keeps the rights that it was given."""
    with open(path, "wb", opener=owner_only) as file:
        file.write(data)


def owner_only(path: str, flags: int) -> int:
    """An `opener` for `open` under which a new file is readable and writable by its owner only."""
    return os.open(path, flags, FILE_MODE)


def without_credentials(url: str) -> str:
    """An address without the user and password that somebody wrote into it; whatever is no address stays as it is."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
