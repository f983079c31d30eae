"""What only its owner may read: files with faces, tokens, ids or secrets; and addresses without their credentials."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit, urlunsplit

from faceid_core.errors import ConfigurationError

FOLDER_MODE = 0o700
FILE_MODE = 0o600
READABLE_MODE = 0o644  # of files that hold nothing private


def config_folder() -> Path:
    """Where this user's secrets lie: `faceid` in XDG_CONFIG_HOME or ~/.config."""
    return user_folder("XDG_CONFIG_HOME", ".config") / "faceid"


def user_folder(variable: str, below_home: str) -> Path:
    """The folder that a variable names, or else one below the user's home.

    Raises:
        ConfigurationError: the variable is not set, and the user has no home.
    """
    named = os.environ.get(variable)
    if named:
        return Path(named)
    try:
        return Path.home() / below_home
    except RuntimeError:
        raise ConfigurationError(f"this user has no home folder; set HOME or {variable}") from None


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
    """Write a file that only its owner can read, whole or not at all; one that is there keeps its rights."""
    with replaced(path) as file:
        file.write(data)


@contextmanager
def replaced(path: str | Path, mode: int = FILE_MODE) -> Generator[BinaryIO]:
    """A file to write, which takes the place of `path` once the block ends; if it breaks off, what was there stays.

    One that is there keeps its rights. Of a link the target is replaced. A pipe, a device, and a file in a folder that
    takes no new one are written to as they are.

    Args:
        path: its folder exists.
        mode: rights of a new file, whatever the umask; by default it is readable by its owner only.

    Raises:
        OSError: about `path`.
    """
    target = Path(os.path.realpath(path))
    is_other = target.exists() and (not target.is_file() or not os.access(target.parent, os.W_OK))
    if is_other:
        with open(target, "wb") as file:
            yield file
        return
    temporary = target.with_name(f".{target.name[:64]}-{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb", opener=owner_only) as file:
            yield file
        os.chmod(temporary, stat.S_IMODE(target.stat().st_mode) if target.exists() else mode)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and str(error.filename) == str(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


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
