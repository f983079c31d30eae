"""Failures of the world outside that reach the command line: what to say of them, and that they are no bug of ours."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from faceid_core.errors import ConfigurationError, FaceidError, StoreError
from faceid_core.private import without_credentials

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
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
_PACKAGES = Path(__file__).resolve().parents[1]
_OURS = ("data_contracts", "faceid_core", "flows", "tasks")
_POLLING = "Service exceeded error threshold"


def explained(error: BaseException) -> FaceidError | None:
    """An error of ours that says what happened and what to do; None if nothing outside explains it, so it is a bug.

    Libraries are looked for only where they are loaded: what they raise cannot come from anywhere else.

    Args:
        error: What ended a command.
    """
    for each in _parts(error):
        for explain in (_prefect, _http, _store, _ray, _memory, _system):
            if (told := explain(each)) is not None:
                return told
    return None


def _parts(error: BaseException) -> Iterator[BaseException]:
    """The error, or what a group of errors holds."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _parts(each)
    else:
        yield error


def _is(error: BaseException, module: str, *names: str) -> bool:
    """Whether it is of a class of a module, without importing that."""
    loaded = sys.modules.get(module)
    return loaded is not None and any(isinstance(error, getattr(loaded, name, ())) for name in names)


def _prefect(error: BaseException) -> FaceidError | None:
    if _is(error, "prefect.deployments.runner", "DeploymentApplyError"):
        return explained(error.__cause__) if error.__cause__ else ConfigurationError(str(error))
    if _is(error, "prefect.exceptions", "ObjectNotFound"):
        return ConfigurationError(
            "the Prefect server does not know a run or deployment that it had: was its database exchanged?"
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


def _http(error: BaseException) -> FaceidError | None:
    if not _is(error, "httpx", "HTTPError", "InvalidURL"):
        return None
    from tasks.prefect_server import refused, unreachable

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
    from flows.prefect_server import configured_server

    try:
        return configured_server() or "(that of this run)"
    except ConfigurationError:
        return None


def _store(error: BaseException) -> FaceidError | None:
    missing = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoRegionError")
    if _is(error, "botocore.exceptions", *missing):
        return ConfigurationError(f"S3: {error}; see docs/keeping-a-store.md for where credentials come from")
    if _is(error, "botocore.exceptions", "BotoCoreError", "ClientError"):
        return StoreError(f"S3: {error}")
    if _is(error, "deltalake.exceptions", "DeltaError"):
        return StoreError(f"the tables: {error}")
    return None


def _ray(error: BaseException) -> FaceidError | None:
    """Not what a task of ours raised inside Ray."""
    if _is(error, "ray.exceptions", "RayError") and not _is(error, "ray.exceptions", "RayTaskError"):
        told = (str(error).splitlines() or [type(error).__name__])[0]
        return FaceidError(f"Ray: {told}; what was finished is kept, the same command goes on from there")
    return None


def _memory(error: BaseException) -> FaceidError | None:
    if isinstance(error, MemoryError) or _is(error, "torch", "OutOfMemoryError"):
        return FaceidError(
            "out of memory: lower execution.workers, personalize.slots or generate.batch, or take a machine "
            f"with more ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        )
    return None


def _of_ours(error: OSError) -> bool:
    """Whether a file of the package itself is missing or no file; one that may not be read or written is a setting."""
    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR) or not isinstance(
        error.filename, str | bytes
    ):
        return False
    path = Path(os.path.abspath(os.fsdecode(error.filename)))
    return any(path.is_relative_to(_PACKAGES / name) for name in _OURS)


def _system(error: BaseException) -> FaceidError | None:
    if not isinstance(error, OSError):
        return None
    if _of_ours(error):
        return None
    where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
    if error.errno in _FULL:
        return FaceidError(f"{_FULL[error.errno]}{where}: make room, then run the same command again")
    if error.errno in _RESOURCES:
        return FaceidError(f"{_RESOURCES[error.errno]}{where}; then run the same command again")
    if where:
        return ConfigurationError(f"{os.fsdecode(error.filename)}: {error.strerror}")
    # A timeout without a number is one of a socket only if it reads so; any code may raise the others.
    timed_out = isinstance(error, TimeoutError) and (error.errno or str(error).endswith("timed out"))
    if isinstance(error, ConnectionError) or timed_out or _is(error, "socket", "gaierror"):
        return ConfigurationError(f"a service cannot be reached: {error or type(error).__name__}")
    if _is(error, "ssl", "SSLError"):
        return ConfigurationError(f"a service's certificate is not accepted: {error}")
    return None
