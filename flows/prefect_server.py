"""Which Prefect server a command talks to, whether it answers, and what to say when it does not."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import unquote, urlsplit

from faceid_core.errors import ConfigurationError
from faceid_core.private import without_credentials

ASK_SECONDS = 10


def configured_server() -> str | None:
    """The address of the server that the user names in the environment, a profile or a file of Prefect's.

    Raises:
        ConfigurationError: Prefect cannot read its settings.
    """
    from pydantic import ValidationError

    try:
        from prefect.settings import get_current_settings

        return get_current_settings().api.url
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise ConfigurationError(f"a setting of Prefect's is wrong: {wrong}") from None


def may_start_server() -> bool:
    """Whether Prefect's client may start a server where none is named."""
    from prefect.settings import get_current_settings

    return get_current_settings().server.ephemeral.enabled


def require_server() -> str:
    """The address of a server that answers and lets us in, asked within seconds.

    Prefect's client would try for a minute, and without an address would start a server that ends with the command.

    Raises:
        ConfigurationError: there is none; says which setting to change.
    """
    url = configured_server()
    if not url:
        raise ConfigurationError(
            "PREFECT_API_URL is not set: name the server, as in PREFECT_API_URL=http://127.0.0.1:4200/api "
            "for that of `faceid serve`"
        )
    from tasks.prefect_server import why_out_of_reach

    if why := why_out_of_reach():
        raise ConfigurationError(
            f"PREFECT_API_URL: {why}; start the server and look at its log, or correct or unset PREFECT_API_URL"
        )
    return url


def ask(url: str, path: str, auth_string: str, api_key: str) -> Any:
    """What the server answers, with the credentials that Prefect's own client would send.

    Raises:
        urllib.error.HTTPError: it refuses.
        OSError: it does not answer.
        ValueError: this is no address, or the answer is none of Prefect's.
    """
    request = urllib.request.Request(f"{without_credentials(url).rstrip('/')}/{path}")
    auth_string = auth_string or unquote(urlsplit(url).netloc.rpartition("@")[0])
    if auth_string:
        request.add_header("Authorization", f"Basic {base64.b64encode(auth_string.encode()).decode()}")
    elif api_key:
        request.add_header("Authorization", f"Bearer {api_key}")
    with urllib.request.urlopen(request, timeout=ASK_SECONDS) as answer:
        return json.loads(answer.read())


def refused(url: str, status: int) -> str:
    """What to say of a server's answer that is an error."""
    where = f"the Prefect server of PREFECT_API_URL, {without_credentials(url)},"
    if status in (401, 403):
        from flows.prefect_auth import auth_file

        return (
            f"{where} refuses us ({status}): set PREFECT_API_AUTH_STRING to what the server has; "
            f"that of `faceid serve` stands in {auth_file()} of who runs it"
        )
    if status == 404:
        return f"{where} has no Prefect API there: the address of one ends in /api"
    return f"{where} answers with {status}: look at its log"


def unreachable(url: str, error: Exception) -> str:
    """What to say of a server that does not answer."""
    return (
        f"the Prefect server of PREFECT_API_URL, {without_credentials(url)}, does not answer ({error}): "
        "start it and look at its log, or correct or unset PREFECT_API_URL"
    )
