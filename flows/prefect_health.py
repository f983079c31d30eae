"""Whether the Prefect server that a run would use can be reached, and what its answers mean.

A command asks before it opens anything, since Prefect's own client would try for minutes. A sentence has the form
"what was found; what to do".
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from faceid_core.errors import ConfigurationError
from faceid_core.private import config_folder, without_credentials
from faceid_core.run.state import Run

log = logging.getLogger(__name__)

# The server cannot be reached, answers with an error, or came back without the run (another database).
OUT_OF_REACH = (httpx.HTTPError, ObjectNotFound)
ANSWER_SECONDS = 10.0
PATIENCE_SECONDS = 10.0  # a server may just be restarting
_PAUSE_SECONDS = 2.0
_BUSY = {408, 425, 429}
_REFUSED = {401, 403, 407}
_without_prefect: list[str] = []


@dataclass(frozen=True)
class Answer:
    """What the server answered.

    Args:
        why: Why it cannot serve a run, in words; empty if it can.
        version: Its version of Prefect; empty where it gives none.
    """

    why: str = ""
    version: str = ""


def ask_server() -> Answer:
    """Ask the server that Prefect's settings name once, without waiting for one that is away.

    Raises:
        ConfigurationError: the address is invalid, something else than Prefect answers there, or it refuses us.
    """
    url = PREFECT_API_URL.value() or ""
    _require_address(url)
    return _ask(url)


def why_out_of_reach(patience: float | None = None) -> str:
    """Why the server that Prefect's settings name cannot serve a run, in words; empty if it can.

    Empty as well where they name no server, and the run starts one of its own.

    Args:
        patience: Seconds for a server that does not answer to come back; `PATIENCE_SECONDS` if not given.

    Raises:
        ConfigurationError: the address is invalid, something else than Prefect answers there, or it refuses us.
    """
    url = PREFECT_API_URL.value()
    if not url:
        return ""
    _require_address(url)
    deadline = time.monotonic() + (PATIENCE_SECONDS if patience is None else patience)
    while why := _ask(url).why:
        if time.monotonic() + _PAUSE_SECONDS > deadline:
            return why
        time.sleep(_PAUSE_SECONDS)
    return ""


def note_out_of_reach(run: Run, what: str, error: object) -> None:
    """Log that a part of a run goes on without Prefect, and remember it for the end of the process.

    Args:
        run: The run.
        what: The part: a stage, "publish", "the whole run".
        error: How Prefect failed.
    """
    _without_prefect.append(what)
    log.warning("run %s: %s goes on without Prefect, which is out of reach: %s", run.run_id, what, error)


def was_out_of_reach() -> bool:
    """Whether Prefect was out of reach in this process: its client may hold events that it cannot deliver."""
    return bool(_without_prefect)


def _require_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        sound = False
    if not sound:
        raise ConfigurationError(
            f"PREFECT_API_URL: {without_credentials(url)!r} is no address of a Prefect server; give one like "
            "http://host:4200/api, or unset it to have the run start a server of its own"
        )


def _ask(url: str) -> Answer:
    """Ask once, with the credentials and certificates that Prefect's own client takes.

    Raises:
        ConfigurationError: waiting will not change what was answered.
    """
    shown = without_credentials(url)
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(httpx_settings={"timeout": ANSWER_SECONDS}, sync_client=True) as client,
        ):
            answers = [client.request("GET", "/health")]
            # Prefect's cloud gives no version, and asks for credentials throughout.
            if "api.prefect.cloud" not in url:
                answers.append(client.request("GET", "/admin/version"))
            contents = [answer.json() for answer in answers]
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in _REFUSED:
            raise ConfigurationError(refused(url, status)) from None
        if status < 500 and status not in _BUSY:
            raise ConfigurationError(_no_prefect(url, f"status {status}")) from None
        return Answer(f"{shown} answers with status {status}")
    except httpx.HTTPError as error:
        return Answer(f"{shown} does not answer: {str(error) or type(error).__name__}")
    except ValueError:
        raise ConfigurationError(_no_prefect(url, "something else than JSON")) from None
    if contents[0] is not True or not all(isinstance(each, str) for each in contents[1:]):
        raise ConfigurationError(_no_prefect(url, "something else than its health and version"))
    return Answer(version="".join(contents[1:]))


def refused(url: str, status: int) -> str:
    """The sentence for a server that answers with an error."""
    where = f"the Prefect server of PREFECT_API_URL, {without_credentials(url)},"
    if status in _REFUSED:
        return (
            f"{where} refuses us (status {status}); set PREFECT_API_AUTH_STRING, or PREFECT_API_KEY, to what the "
            f"server was started with; that of `faceid serve` is in {config_folder() / 'prefect-auth'} of the user "
            "who runs it"
        )
    if status == 404:
        return _no_prefect(url, "status 404")
    return f"{where} answers with status {status}; look at its log"


def unreachable(url: str, error: Exception) -> str:
    """The sentence for a server that does not answer."""
    return (
        f"the Prefect server of PREFECT_API_URL, {without_credentials(url)}, does not answer ({error}); "
        "start it and look at its log, or correct or unset PREFECT_API_URL"
    )


def _no_prefect(url: str, found: str) -> str:
    return (
        f"PREFECT_API_URL: what answers at {without_credentials(url)} is no Prefect API ({found}); the address ends "
        "in /api, as in http://host:4200/api"
    )
