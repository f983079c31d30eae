"""Errors of the environment that end a command (disk, network, services, memory), as sentences that say what to do."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from faceid_core.errors import ConfigurationError, FaceidError, StoreError
from faceid_core.private import without_credentials
from flows.prefect_server import configured_server

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file is larger than `ulimit -f` or the file system lets it be",
}
_RESOURCES = {
    errno.EIO: "the disk fails: look at the system's log",
    errno.ENOMEM: "out of memory",
    errno.EMFILE: "too many open files: raise `ulimit -n`",
    errno.ENFILE: "the machine has too many open files",
    errno.EAGAIN: "the machine starts no more processes or threads: raise `ulimit -u`",
    errno.ESTALE: "a network disk has gone away",
}
# Beginnings of what Prefect raises as bare RuntimeError.
_EPHEMERAL = ("Timed out while attempting to connect to ephemeral", "Unable to find an available port")
_ROOT = Path(__file__).resolve().parents[1]
_OWN_PACKAGES = ("data_contracts", "faceid_core", "flows", "tasks")
_POLLING = "Service exceeded error threshold"


def explain(error: BaseException) -> FaceidError | None:
    """Translate an error of the environment into one of ours; None for any other error, which is then our bug.

    A library is consulted only if it is loaded: otherwise it cannot have raised the error.

    Args:
        error: What ended a command.
    """
    for each in _parts(error):
        for translate in (_prefect, _http, _store, _ray, _memory, _system):
            if (translated := translate(each)) is not None:
                return translated
    return None


def _parts(error: BaseException) -> Iterator[BaseException]:
    """The error, or the members of a group of errors."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _parts(each)
    else:
        yield error


def _is(error: BaseException, module: str, *names: str) -> bool:
    """Whether the error is of one of a module's classes, without importing the module."""
    loaded = sys.modules.get(module)
    return loaded is not None and any(isinstance(error, getattr(loaded, name, ())) for name in names)


def _prefect(error: BaseException) -> FaceidError | None:
    if _is(error, "prefect.deployments.runner", "DeploymentApplyError"):
        return explain(error.__cause__) if error.__cause__ else ConfigurationError(str(error))
    if _is(error, "prefect.exceptions", "ObjectNotFound"):
        return ConfigurationError(
            "the Prefect server does not know a run or deployment that it had: was its database replaced?"
        )
    if isinstance(error, RuntimeError) and str(error).startswith(_EPHEMERAL):
        return ConfigurationError(
            "the Prefect server of this run did not start: name a running one with PREFECT_API_URL, or give it more "
            f"time with PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS. {str(error)[:500]}"
        )
    if isinstance(error, RuntimeError) and str(error).startswith(_POLLING):
        return ConfigurationError(
            "the Prefect server of PREFECT_API_URL has not answered for a while: start it, then this command again"
        )
    if _is(error, "websockets.exceptions", "WebSocketException"):
        return ConfigurationError(f"the Prefect server of PREFECT_API_URL closed the connection: {error}")
    return None


def _http(error: Any) -> FaceidError | None:
    if not _is(error, "httpx", "HTTPError", "InvalidURL"):
        return None
    from flows.prefect_health import refused, unreachable  # imports prefect

    address = ""
    with suppress(AttributeError, RuntimeError):  # some have no request, others lost it
        address = without_credentials(str(error.request.url))
    prefect = _prefect_address()
    if prefect is not None and (not address or address.startswith(without_credentials(prefect))):
        if _is(error, "httpx", "HTTPStatusError"):
            return ConfigurationError(refused(prefect, error.response.status_code))
        return ConfigurationError(unreachable(prefect, error))
    return ConfigurationError(f"{address or 'an address'} cannot be reached: {error or type(error).__name__}")


def _prefect_address() -> str | None:
    if "prefect.settings" not in sys.modules:
        return None
    try:
        return configured_server() or "(that of this run)"
    except ConfigurationError:
        return None


def _store(error: BaseException) -> FaceidError | None:
    missing = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoRegionError")
    if _is(error, "botocore.exceptions", *missing):
        return ConfigurationError(f"S3: {error}; see docs/s3.md for where credentials come from")
    if _is(error, "botocore.exceptions", "BotoCoreError", "ClientError"):
        return StoreError(f"S3: {error}")
    if _is(error, "deltalake.exceptions", "DeltaError"):
        return StoreError(f"the tables: {error}")
    return None


def _ray(error: BaseException) -> FaceidError | None:
    """Ray's own errors, without those that our tasks raised inside Ray."""
    if _is(error, "ray.exceptions", "RayError") and not _is(error, "ray.exceptions", "RayTaskError"):
        message = (str(error).splitlines() or [type(error).__name__])[0]
        return FaceidError(f"Ray: {message}; what was finished is kept, the same command goes on from there")
    return None


def _memory(error: BaseException) -> FaceidError | None:
    if isinstance(error, MemoryError) or _is(error, "torch", "OutOfMemoryError"):
        return FaceidError(
            "out of memory: lower execution.workers, personalize.slots or generate.batch, or take a machine "
            f"with more ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        )
    return None


def _is_own_file_missing(error: OSError) -> bool:
    """Whether a file of our own packages is missing, which is our bug; missing permissions are the user's setting."""
    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR) or not isinstance(
        error.filename, str | bytes
    ):
        return False
    path = Path(os.path.abspath(os.fsdecode(error.filename)))
    return any(path.is_relative_to(_ROOT / name) for name in _OWN_PACKAGES)


def _system(error: BaseException) -> FaceidError | None:
    if not isinstance(error, OSError):
        return None
    if _is_own_file_missing(error):
        return None
    where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
    if error.errno in _FULL:
        return FaceidError(f"{_FULL[error.errno]}{where}: make room, then run the same command again")
    if error.errno in _RESOURCES:
        return FaceidError(f"{_RESOURCES[error.errno]}{where}; then run the same command again")
    if where:
        return ConfigurationError(f"{os.fsdecode(error.filename)}: {error.strerror}")
    # A timeout without a number comes from a socket only if it has a socket's text.
    timed_out = isinstance(error, TimeoutError) and (error.errno or str(error).endswith("timed out"))
    if isinstance(error, ConnectionError) or timed_out or _is(error, "socket", "gaierror"):
        return ConfigurationError(f"a service cannot be reached: {error or type(error).__name__}")
    if _is(error, "ssl", "SSLError"):
        return ConfigurationError(f"a service's certificate is not accepted: {error}")
    return None
